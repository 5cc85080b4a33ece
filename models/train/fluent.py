"""The unseen style: Fluent Emoji's drawings of our things, for evaluate.py alone. NEVER train on what this writes.

usage: python fluent.py --icons DIR/node_modules/@iconify-json/fluent-emoji-flat/icons.json --out DIR/fluent.npz
"""
import argparse

import icons


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--icons", required=True)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    found, missing = icons.read(args.icons)
    icons.write(args.out, [found])
    print("missing:", ", ".join(missing))


if __name__ == "__main__":
    main()
