"""Our side: the steps of a recipe, up to and with the one that is named.

    python ours.py RECIPE STEP

What is fresh is not made again, so a first call up to the step before leaves STEP alone to measure
in a second.
"""

import sys
from pathlib import Path


def main() -> None:
    from outcome import tell
    from rich.console import Console

    from starkiln import builders, pipeline, steps
    from starkiln.core import manifest

    path = Path(sys.argv[1]).resolve()
    recipe = pipeline.load(path).value
    console = Console(stderr=True)
    with builders.pool(recipe) as pool:
        for step in steps.chain(recipe, path):
            if pipeline.status(path.parent, step).state != "fresh":
                pipeline.build(path.parent, step, recipe, pool, console)
            if step.name == sys.argv[2]:
                break
    made = manifest.read(path.parent / sys.argv[2])
    removed = sum(made.drops.values())
    tell(made.rows, removed)


if __name__ == "__main__":  # spawned workers import this file, and need nothing of it
    main()
