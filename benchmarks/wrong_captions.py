"""What is trained on wrong captions does not pass the gate, and the report says why.

    python benchmarks/wrong_captions.py --data DIR

``--data`` is as for raccoon.py. Its raccoons become corrections of the shipped model in two
instances: with what people wrote about them, and each with what people wrote about another picture.
What the second trains is put beside the versions of the first, whose held-out answers then judge
it: `flask model promote` must refuse it, and `flask model evaluate` says why.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
from pathlib import Path

from raccoon import PLACES, flask, newest, status_of, write_imagefolder

from captionapp.captioning.versions import ModelVersions
from captionapp.training.dataset import Example, read_imagefolder


def tell(args: argparse.Namespace, work: Path) -> bool:
    """Whether it was refused, and nothing else is served than before."""
    raccoons = read_imagefolder(args.data / PLACES["raccoons"])
    others = read_imagefolder(args.data / PLACES["retain"])
    random.Random(args.seed).shuffle(others)
    other_words = [one.captions[:1] for one in others[: len(raccoons)]]
    retained = write_imagefolder(others[-args.retained :], work / "retained")
    wrong = [Example(one.path, said) for one, said in zip(raccoons, other_words, strict=True)]
    instances = {"right": work / "right", "wrong": work / "wrong"}
    for name, examples in (("right", raccoons), ("wrong", wrong)):
        folder = write_imagefolder(examples, work / f"{name}-pictures")
        flask(instances[name], None, "feedback", "import", str(folder))
    options = ["--retain", str(retained), *args.finetune.split()]
    flask(instances["wrong"], None, "model", "finetune", *options)
    made = newest(instances["wrong"])
    shutil.copytree(made.folder, instances["right"] / "models" / made.name)
    status = status_of(instances["right"], None, "model", "promote", made.name)
    flask(instances["right"], None, "model", "evaluate", made.name)
    served = ModelVersions(instances["right"] / "models", made.folder).pointer.last()
    return status == 1 and served is None


def main() -> int:
    parser = argparse.ArgumentParser(description="A training on wrong captions is refused.")
    parser.add_argument("--data", type=Path, required=True, help="folder of the imagefolders")
    parser.add_argument("--retained", type=int, default=500, help="pictures to be retained")
    parser.add_argument("--seed", type=int, default=1, help="of which captions are taken")
    parser.add_argument("--finetune", default="", help="further arguments of `finetune`")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        refused = tell(args, Path(work))
    print(f"\nIt was {'refused' if refused else 'NOT refused'}.")
    return 0 if refused else 1


if __name__ == "__main__":
    raise SystemExit(main())
