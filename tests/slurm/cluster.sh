#!/usr/bin/env bash
# A real Slurm cluster on this machine, for tests: two nodes (n1, n2) of one processor each, and two partitions, of which
# `high` takes machines from jobs of `main`, which are put back into the queue, and `low` loses them for good.
#   cluster.sh start FOLDER   starts munged, slurmctld and two slurmd; prints the path to export as SLURM_CONF
#   cluster.sh stop FOLDER    ends what `start` started
# Needs root and Debian's packages slurm-wlm and munge (22.05 was tried). No cgroups, no accounting, no systemd.
# SLURM_TEST_PORT: the first of three ports. Any number of clusters can be there at a time.
set -euo pipefail
folder=$(mkdir -p "$2" && cd "$2" && pwd)
conf=$folder/slurm.conf
# A process that has ended may wait for its parent to notice.
is_running() { [[ $(ps -o stat= -p "$1") == [!Z]* ]]; }
case $1 in
start)
    mkdir -p "$folder"/{ctl,n1,n2}
    head -c 1024 /dev/urandom >"$folder/munge.key"
    chmod 600 "$folder/munge.key"
    # Its log says what it thinks of a socket that is not in a folder of the system.
    munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --seed-file="$folder/munged.seed" \
        --pid-file="$folder/munged.pid" --log-file="$folder/munged.log" 2>/dev/null
    host=$(hostname -s) port=${SLURM_TEST_PORT:-16817}
    cat >"$conf" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that is put back waits for that time.
AuthInfo=cred_expire=3,socket=$folder/munge.socket
# No other cluster on this machine has such numbers; and the port that is made of the first one is in use.
FirstJobId=$port
StateSaveLocation=$folder/ctl
SlurmdSpoolDir=$folder/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd-%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd-%n.log
SlurmctldPort=$port
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
JobRequeue=1
KillWait=30
OverTimeLimit=0
MinJobAge=600
SlurmdTimeout=20
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=1 State=UNKNOWN
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE State=UP
PartitionName=low Nodes=ALL MaxTime=INFINITE PriorityTier=1 PreemptMode=CANCEL State=UP
PartitionName=high Nodes=ALL MaxTime=INFINITE PriorityTier=10 State=UP
CONF
    export SLURM_CONF=$conf
    slurmctld
    slurmd -N n1
    slurmd -N n2
    are_idle() { [[ $(sinfo -h -N -p main -t idle 2>/dev/null | wc -l) == 2 ]]; }
    end=$((SECONDS + 60))
    until are_idle || ((SECONDS > end)); do sleep 0.2; done
    are_idle || { echo 'the nodes do not come up' >&2 && exit 1; }
    echo "$conf"
    ;;
stop)
    for daemon in slurmd-n1 slurmd-n2 slurmctld munged; do
        process=$(cat "$folder/$daemon.pid" 2>/dev/null) && kill "$process" 2>/dev/null || continue
        end=$((SECONDS + 10))
        while is_running "$process"; do
            ((SECONDS < end)) || kill -KILL "$process" 2>/dev/null || true
            sleep 0.2
        done
    done
    ;;
esac
