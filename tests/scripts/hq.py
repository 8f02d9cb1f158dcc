"""`hq` where there is none: HyperQueue's own server, workers and client, as its Python package has them.

    hq.py cluster DIR WORKERS           a server and workers of one processor each, until it is told to end
    hq.py [OPTIONS] job submit-file F   reads a job definition file (docs/jobs/jobfile.md of HyperQueue) and submits it
"""

import signal
import sys
import threading
import tomllib
from pathlib import Path

from hyperqueue import Client, Job, LocalCluster
from hyperqueue.cluster import WorkerConfig
from hyperqueue.ffi.protocol import ResourceRequest


def cluster(folder: str, workers: str) -> None:
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    with LocalCluster(folder) as local:
        for _ in range(int(workers)):
            local.start_worker(WorkerConfig(cores=1))
        print("ready", flush=True)
        while not ended.wait(0.2):
            pass


def submit(server: str | None, file: str) -> None:
    known = {"id", "command", "cwd", "stdout", "stderr", "deps", "request"}
    definition = tomllib.loads(Path(file).read_text())
    job = Job(name=definition["name"], max_fails=None)
    tasks = {}
    for task in definition["task"]:
        assert set(task) <= known and task["stdout"] == task["stderr"] == "none", task
        (request,) = task["request"]
        assert set(request) == {"resources"}, request
        resources = request["resources"]
        # Workers of `hq worker start` say how much memory they have; the package's do not, and would wait for ever.
        memory = resources.pop("mem", None)
        assert memory is None or memory > 0 and type(memory) is int, memory
        program = tasks[task["id"]] = job.program(
            task["command"],
            cwd=task["cwd"],
            stdout="/dev/null",
            stderr="/dev/null",
            deps=[tasks[id] for id in task.get("deps", [])],
            resources=ResourceRequest(cpus=resources.pop("cpus"), resources=resources),
        )
        # The package numbers tasks by itself, from 0.
        program.task_id = task["id"]
    print(Client(server).submit(job).id)


def main() -> None:
    options = [word for word in sys.argv[1:] if word.startswith("--")]
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    servers = [option.split("=", 1)[1] for option in options if option.startswith("--server-dir=")]
    if words[:1] == ["cluster"]:
        cluster(*words[1:])
    elif words[:2] == ["job", "submit-file"]:
        submit(servers[-1] if servers else None, words[2])
    else:
        sys.exit(f"hq.py has no {' '.join(words)}")


main()
