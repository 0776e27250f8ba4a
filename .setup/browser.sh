#!/usr/bin/env bash
# Finds or gets a Chromium for the page tests and writes its path to .venv/browser-path; an empty file means none can be had.
# Order: one that is installed, Debian's package where it may be installed, Playwright's own download.
set -uo pipefail
cd "$(dirname "$0")/.."

installed() {
  for name in chromium chromium-browser google-chrome google-chrome-stable; do
    command -v "$name" 2>/dev/null && return 0
  done
  return 1
}

from_debian() {
  command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ] || return 1
  echo "Installing Debian's chromium for the page tests ..." >&2
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; } >/dev/null 2>&1
  installed
}

from_playwright() {
  echo "Asking Playwright for its own Chromium ..." >&2
  timeout 600 .venv/bin/playwright install chromium >/dev/null 2>&1 || return 1
  .venv/bin/python - <<'PY'
from playwright.sync_api import sync_playwright

with sync_playwright() as p:
    print(p.chromium.executable_path)
PY
}

path=$(installed || from_debian || from_playwright || true)
printf '%s' "$path" > .venv/browser-path
if [ -z "$path" ]; then
  echo "!! No Chromium could be found or installed: THE PAGE TESTS IN A REAL BROWSER WILL BE SKIPPED." >&2
  echo "!! Install one (Debian: apt install chromium) and run 'make test' again." >&2
fi
exit 0
