#!/usr/bin/env bash
# A Slurm of one node in a scratch folder, without systemd: `source <(tests/slurm.sh start DIR)`, `tests/slurm.sh stop DIR`.
# Needs root and Debian's slurm-wlm and munge (apt-get install -y --no-install-recommends slurm-wlm munge).
# There is no accounting (no sacct), as on many small clusters. Memory is booked and not enforced.
set -euo pipefail
usage="tests/slurm.sh start|stop DIR"
what=${1:?$usage} dir=$(realpath -m "${2:?$usage}") host=$(hostname -s)
export SLURM_CONF=$dir/slurm.conf

start() {
    mkdir -p "$dir"/{state,spool,log,run}
    chmod 700 "$dir/run"
    [ -e "$dir/run/munge.key" ] || head -c 128 /dev/urandom > "$dir/run/munge.key"
    chmod 400 "$dir/run/munge.key"
    echo 'CgroupAutomount=no' > "$dir/cgroup.conf"
    # cred_expire: a job that is requeued waits so long before it runs again (Slurm's own value: 120 s)
    # KillWait: from SIGTERM to SIGKILL; OverTimeLimit=0: a time limit of a minute is a minute
    cat > "$SLURM_CONF" <<CONF
ClusterName=scratch
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
SchedulerParameters=sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmctldPort=16817
SlurmdPort=16818
KillWait=5
SlurmdParameters=config_overrides
ReturnToService=2
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=${SLURM_CPUS:-4} RealMemory=8000 State=UNKNOWN
PartitionName=debug Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    munged --force --key-file="$dir/run/munge.key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
        --log-file="$dir/log/munged.log" --seed-file="$dir/run/munge.seed"
    slurmctld -c
    slurmd -N "$host"
    for _ in $(seq 120); do
        [ "$(sinfo -h -o %T 2> /dev/null)" != idle ] || { echo "export SLURM_CONF=$SLURM_CONF"; return; }
        sleep 0.25
    done
    echo "Slurm did not come up; see $dir/log" >&2
    return 1
}

stop() {
    scancel --user="$(id -un)" 2> /dev/null || true
    for daemon in slurmd slurmctld munged; do
        pid=$(cat "$dir/run/$daemon.pid" 2> /dev/null) || continue
        kill "$pid" 2> /dev/null || continue
        for _ in $(seq 80); do kill -0 "$pid" 2> /dev/null || break; sleep 0.25; done
        kill -9 "$pid" 2> /dev/null || true
    done
    rm -rf "$dir"
}

case $what in start) start ;; stop) stop ;; *) echo "$usage" >&2; exit 2 ;; esac
