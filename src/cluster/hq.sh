# HyperQueue asks a task to end by INT. The program ends at its next block, and leaves what it has in the cache.
on_end() { again=1; kill -TERM "$program" 2>/dev/null; }
trap on_end INT TERM

