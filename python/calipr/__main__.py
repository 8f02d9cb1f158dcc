"""`python -m calipr`: the program that was installed with this package."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path


def program():
    """The program's path. Which folder it lies in depends on how the package was installed."""
    name = "calipr" + (sysconfig.get_config_var("EXE") or "")
    schemes = [None, sysconfig.get_preferred_scheme("user")] if hasattr(sysconfig, "get_preferred_scheme") else [None]
    folders = [sysconfig.get_path("scripts", scheme) if scheme else sysconfig.get_path("scripts") for scheme in schemes]
    # pip install --target
    folders.append(Path(__file__).parent.parent / "bin")
    for folder in folders:
        path = Path(folder) / name
        if path.is_file():
            return str(path)
    return shutil.which("calipr")


def main():
    path = program()
    if path is None:
        sys.exit("error: the program calipr was not installed with its package; pip install --force-reinstall calipr")
    arguments = [path, *sys.argv[1:]]
    if os.name == "posix":
        os.execv(path, arguments)
    sys.exit(subprocess.call(arguments))


main()
