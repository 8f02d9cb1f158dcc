#!/usr/bin/env bash
# A private Slurm cluster on this one machine, of the daemons that Debian's packages have: no systemd, no accounting, its own
# ports, key and folders, all of it below DIR.
#
#   tests/scripts/slurm.sh up DIR [NODES]    starts it; prints what to set, a NAME=VALUE a line, to talk to it
#   tests/scripts/slurm.sh down DIR          ends its jobs and daemons
#
# Each node says that it has eight processors, so that several tasks run however few the machine has.
set -euo pipefail

command=$1
dir=$2
nodes=${3:-4}

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

up() {
    for program in munged slurmctld slurmd sbatch scontrol squeue python3; do
        PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || { echo "$program is not here" >&2; exit 69; }
    done
    export PATH=$PATH:/usr/sbin
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    mkdir -p "$dir/munge" "$dir/state" "$dir/log"
    # munged and its clients want folders that no one else may write to.
    chmod 711 "$dir" "$dir/munge"
    dd if=/dev/urandom of="$dir/munge/key" bs=1024 count=1 status=none
    chmod 600 "$dir/munge/key"
    # --force: the folders above are the test's own, and may be anybody's.
    munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munge/pid" \
        --log-file="$dir/log/munged" --seed-file="$dir/munge/seed" 2>"$dir/log/munged.start"

    # What is queued again Slurm holds back until its credential has expired: cred_expire, and 5 seconds are the least.
    local host user
    host=$(hostname -s)
    user=$(id -un)
    {
        cat <<CONF
ClusterName=calipr
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$user
SlurmdUser=$user
SlurmctldPort=$(free_port)
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
CryptoType=crypto/munge
SlurmctldPidFile=$dir/state/slurmctld.pid
SlurmdPidFile=$dir/state/slurmd-%n.pid
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd-%n
StateSaveLocation=$dir/state/slurmctld
SlurmdSpoolDir=$dir/state/slurmd-%n
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,batch_sched_delay=1,bf_interval=2,preempt_youngest_first
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=600
ReturnToService=2
InactiveLimit=0
MaxArraySize=64
CONF
        for i in $(seq "$nodes"); do
            echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$(free_port) CPUs=8 RealMemory=8000 State=UNKNOWN"
        done
        echo "PartitionName=main Nodes=ALL Default=YES MaxTime=60 State=UP PriorityTier=1 GraceTime=20 PreemptMode=REQUEUE"
        echo "PartitionName=urgent Nodes=ALL MaxTime=60 State=UP PriorityTier=10 PreemptMode=OFF"
    } >"$dir/slurm.conf"
    mkdir -p "$dir/state/slurmctld"
    export SLURM_CONF=$dir/slurm.conf
    slurmctld
    for i in $(seq "$nodes"); do
        slurmd -N "n$i"
    done
    for _ in $(seq 100); do
        if [ "$(sinfo --noheader --Node --partition main --states idle --format %N 2>/dev/null | wc -l)" = "$nodes" ]; then
            printf 'SLURM_CONF=%s\n' "$SLURM_CONF"
            return
        fi
        sleep 0.2
    done
    echo "the nodes are not idle after 20 s:" >&2
    sinfo >&2 || true
    tail -n 20 "$dir"/log/* >&2
    exit 1
}

down() {
    dir=$(cd "$dir" && pwd)
    export PATH=$PATH:/usr/sbin SLURM_CONF=$dir/slurm.conf
    timeout 10 scancel --user "$(id -un)" 2>/dev/null || true
    timeout 10 scancel --signal=KILL --full --user "$(id -un)" 2>/dev/null || true
    local pid
    for pid in "$dir"/state/slurmd-*.pid "$dir/state/slurmctld.pid" "$dir/munge/pid"; do
        [ -f "$pid" ] || continue
        local process
        process=$(cat "$pid")
        kill "$process" 2>/dev/null || true
        for _ in $(seq 50); do
            kill -0 "$process" 2>/dev/null || break
            sleep 0.1
        done
    done
}

"$command"
