"""`python -m hybrid_core.export verify <folder>`: check an exported folder on this machine; exit code 0 or 1."""

from __future__ import annotations

import argparse
import os
import sys
import warnings

from hybrid_core.errors import HybridError


def main(arguments: list[str] | None = None) -> int:
    """0 when everything holds, 1 when something differs or the folder cannot be used."""
    options = _parser().parse_args(arguments)
    # Read at import: threads that spin while waiting slow each other down many times over.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from hybrid_core.export.verification import Choices, Finding, verify_folder

    def tell(finding: Finding) -> None:
        sys.stdout.write(f"{finding}\n")
        sys.stdout.flush()

    # What libraries say about themselves while the model is built is not about this folder.
    warnings.filterwarnings("ignore", module="torch")
    choices = Choices(
        timing=not options.no_timing,
        run_package=options.run_package,
        allow_code=options.allow_code,
        seed=options.seed,
    )
    try:
        findings = verify_folder(options.folder, choices=choices, tell=tell)
    except HybridError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    failed = sum(finding.holds is False for finding in findings)
    sys.stdout.write("everything agrees\n" if not failed else f"{failed} of {len(findings)} checks do not agree\n")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hybrid_core.export", description="Check an exported folder.")
    commands = parser.add_subparsers(required=True, metavar="command")
    verify = commands.add_parser("verify", help="files, weights, outputs and timing")
    verify.add_argument("folder")
    verify.add_argument("--no-timing", action="store_true", help="check files, weights and outputs only")
    verify.add_argument("--run-package", action="store_true", help="load the compiled library in it, which is code")
    verify.add_argument("--allow-code", action="store_true", help="let the model be a function of an installed package")
    verify.add_argument("--seed", type=int, help="of the fresh inputs (drawn)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
