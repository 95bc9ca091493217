"""python -m bench [NAME…] [--rounds N]"""

from __future__ import annotations

import argparse

from bench import (
    cold,
    doctors,
    engine,
    ingest,
    keras,
    levers,
    protection,
    road,
    sessions,
    shipped,
    skin,
    thesis,
    tumour,
)

BENCHES = {
    "road": road.run,
    "ingest": ingest.run,
    "protection": protection.run,
    "sessions": sessions.run,
    "engine": engine.run,
    "keras": keras.run,
    "shipped": lambda _: shipped.main([]),
    "tumour": tumour.run,
    "skin": skin.run,
    "doctors": doctors.run,
    "cold": cold.run,
    "levers": lambda _: levers.main([]),
    "thesis": lambda _: thesis.main([]),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of the node.")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="which; all by default")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is repeated")
    options = parser.parse_args()
    for name in options.names or BENCHES:
        BENCHES[name](options.rounds)


if __name__ == "__main__":
    main()
