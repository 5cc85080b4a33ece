"""run.py: all end-to-end tests (or those whose names are given); the last line counts them."""
import os
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


def main():
    loader = unittest.TestLoader()
    if len(sys.argv) > 1:
        suite = loader.loadTestsFromNames(sys.argv[1:])
    else:
        suite = loader.discover(os.path.dirname(os.path.abspath(__file__)))
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=1).run(suite)
    bad = len(result.failures) + len(result.errors)
    for test, reason in result.skipped:
        print(f"skipped: {test}: {reason}")
    print(f"{len(result.skipped)} tests skipped")
    print(f"{result.testsRun - bad - len(result.skipped)} tests passed")
    return 1 if bad or result.testsRun == 0 else 0


sys.exit(main())
