"""Models that somebody brings: folders of Hugging Face, exported programs, and functions on one's own machine.

Nothing here trusts what it reads. A file is measured and checked before it is loaded, loading never unpickles and never
runs code from a folder, and what could run code (`factory`) is off unless the server was started for it. The rules
are listed in `docs/bring_your_own.md`. `registration.open_entry` gives a brought model the same form as one of the
registry.
"""
