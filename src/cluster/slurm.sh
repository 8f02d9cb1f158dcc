# Slurm tells the batch shell alone, by USR1, that the time limit is near, and by TERM what it ends: at the limit, where
# another job takes the place, at scancel. The program ends at its next block, and leaves what it has in the cache.
told=
on_usr1() { told=limit again=1; kill -TERM "$program" 2>/dev/null; }
on_term() {
    told=
    again=1
    kill -TERM "$program" 2>/dev/null
    # What was preempted Slurm queues again by itself, and what a person cancelled stays so.
    case $(scontrol show job --oneliner "$SLURM_JOB_ID") in
    *' Reason=TimeLimit '*) requeue ;;
    esac
}
# An array's task by its own name: the job id of one of them is that of the whole array, too.
requeue() {
    if [ "${SLURM_RESTART_COUNT:-0}" -ge 100 ]; then
        echo "queued again 100 times, which is enough: calipr submit goes on" >&2
        return 1
    fi
    echo "the time limit is near: queued again, to go on from here" >&2
    scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
}
trap on_usr1 USR1
trap on_term TERM

