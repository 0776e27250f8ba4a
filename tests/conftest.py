"""What every test can rely on, however the suite was started."""

import signal

# A shell starts background jobs with SIGINT ignored, and children inherit that; tests that press Ctrl-C need it heard.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
