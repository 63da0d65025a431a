"""Kills any command of a long job at random moments, and proves that it ends as if nobody had.

python recipes/chaos.py --kills 50 -- hafm prepare my-songs {out}
python recipes/chaos.py --kills 50 --compare "final/*" -- python recipes/train_stage.py \\
    recipes/configs/tiny/smoke.yaml --corpus corpus --output_dir {out}
python recipes/chaos.py --kills 50 --compare "report.*" -- hafm evaluate --pairs pairs --out {out}
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from hafm_hf.benchmark.chaos import CommandWork, HAFMChaosError, digest_files, torment


def main() -> None:
    """Reads the arguments, kills, and prints the row of a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, default=Path("chaos"), help="for the outputs and the log")
    parser.add_argument("--compare", action="append", help="pattern of files in {out}; all if not given")
    parser.add_argument("--ignore", action="append", default=["*.lock"], help="pattern of files that may differ")
    parser.add_argument("command", nargs="+", help="the job; {out} stands for its output folder")
    options = parser.parse_args()
    if not any("{out}" in word for word in options.command):
        parser.error("the command must say {out} where its output folder belongs.")
    if options.folder.exists():
        parser.error(f"{options.folder} exists; name another --folder.")
    options.folder.mkdir(parents=True)
    log = options.folder / "log.txt"

    def start(output: Path) -> CommandWork:
        return CommandWork([word.replace("{out}", str(output)) for word in options.command], log)

    digest = partial(digest_files, compared=options.compare or ["*"], ignored=options.ignore)
    try:
        report = torment(start, options.folder, digest, options.kills, options.seed)
    except HAFMChaosError as error:
        sys.exit(f"{error} Its output is in {log}.")
    print("fault  tries  survived  lost")
    print(f"kill   {report.kills:5d}  {report.kills - len(report.lost):8d}  {len(report.lost):4d}")
    for sentence in report.lost:
        print(sentence)
    sys.exit(1 if report.lost else 0)


if __name__ == "__main__":
    main()
