"""Asks URLs until each answers with 200. The first step of `helm test`."""

import argparse
import sys
import time
import urllib.error
import urllib.request


def answers(url: str) -> str:
    """Ask once; return what was wrong, or nothing."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return ""
    except (OSError, urllib.error.URLError) as error:
        return str(error)


def main() -> int:
    """Run the step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("urls", nargs="+")
    parser.add_argument("--seconds", type=float, default=180)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    for url in options.urls:
        while fault := answers(url):
            if time.monotonic() > end:
                print(f"{url} does not answer: {fault}")
                return 1
            time.sleep(1)
        print(f"{url} answers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
