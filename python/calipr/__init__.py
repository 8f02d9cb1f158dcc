"""What a study of calipr's has left, in Python.

    import calipr

    study = calipr.read("results/quickstart")
    study.settings          # a table as a polars.DataFrame; also cells, metrics, samples, contrasts, layers, masks,
                            # published
    study.run["warnings"]   # run.json

Studies are run by the program: `calipr run quickstart` on a command line, or `python -m calipr run quickstart`.
"""

import json
from pathlib import Path

__all__ = ["Study", "read"]


class Study:
    """A folder of results. Tables are read when they are first asked for."""

    def __init__(self, folder):
        self.folder = Path(folder)
        run = self.folder / "run.json"
        if not run.is_file():
            raise FileNotFoundError(f"there is no {run}; `calipr run` writes a study's results into results/NAME")
        self.run = json.loads(run.read_text(encoding="utf-8"))
        #: The names of the tables.
        self.tables = sorted(path.stem for path in self.folder.glob("*.parquet"))

    def __getattr__(self, name):
        if name.startswith("_") or name in ("folder", "run", "tables"):
            raise AttributeError(name)
        if name not in self.tables:
            raise AttributeError(f"{self.folder} has no table {name!r}; it has {', '.join(self.tables) or 'none'}")
        table = _polars().read_parquet(self._path(name))
        setattr(self, name, table)
        return table

    def __dir__(self):
        return [*super().__dir__(), *self.tables]

    def __repr__(self):
        return f"calipr.read({str(self.folder)!r})  # {', '.join(self.tables)}"

    def _path(self, table):
        return self.folder / f"{table}.parquet"


def read(folder):
    """The results in a folder, such as results/quickstart."""
    return Study(folder)


def _polars():
    try:
        import polars
    except ImportError as error:
        raise ImportError("the tables are read by polars, which is not installed: pip install 'calipr[polars]'") from error
    return polars
