"""The script that lies in every folder, for whoever opens it: it only calls this package's own verification."""

SCRIPT_TEXT = '''"""Checks this folder on this machine: files, outputs, and the timing, measured again.

    python verify.py [--no-timing] [--run-package] [--allow-code]

It needs the package hybrid_core. A script is code: for a folder that somebody else gave you, run instead
`python -m hybrid_core.export verify <folder>` from another place: it checks the same and runs nothing from the folder.
"""

import os
import sys

# Python looks for modules beside a script first; nothing that lies in this folder may be imported.
here = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [path for path in sys.path if os.path.abspath(path or os.getcwd()) != here]
# Started from the project's own folder it finds the package there, as `python -m` does.
if os.getcwd() != here and os.path.isfile(os.path.join("hybrid_core", "__init__.py")):
    sys.path.append(os.getcwd())

try:
    from hybrid_core.export.__main__ import main
except ModuleNotFoundError as error:
    sys.exit(f"{error}; start this from the folder that holds hybrid_core, or set PYTHONPATH to it")

if __name__ == "__main__":
    sys.exit(main(["verify", here, *sys.argv[1:]]))
'''
