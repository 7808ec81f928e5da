#!/bin/bash
# A SLURM of one node on this machine, to try a study as a cluster runs it (`make cluster`).
#
#   tools/slurm_here.sh start FOLDER   starts munged, slurmctld and slurmd, with their state in
#                                      FOLDER; FOLDER/slurm.conf is what SLURM_CONF must name
#   tools/slurm_here.sh stop FOLDER    ends what `start` began, by the ids that it wrote down
#
# Needs root, and Debian's packages slurm-wlm and munge, which are installed where they are missing.
# There is no accounting: sacct knows nothing.
set -euo pipefail

usage() { sed -n 's/^# \?//p' "$0" | sed -n '3,7p' >&2; exit 2; }
[ $# -eq 2 ] || usage
folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

install_missing() {
  command -v slurmctld >/dev/null && command -v munged >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq slurm-wlm munge >/dev/null
}

write_settings() {
  local host; host=$(hostname -s)
  mkdir -p "$folder"/{state,spool}
  {
    echo "ClusterName=here"
    echo "SlurmctldHost=$host(127.0.0.1)"
    echo "AuthType=auth/munge"
    printf '%s=root\n' SlurmUser SlurmdUser
    echo "StateSaveLocation=$folder/state"
    echo "SlurmdSpoolDir=$folder/spool"
    for daemon in slurmctld slurmd; do
      echo "${daemon^}PidFile=$folder/$daemon.pid"
      echo "${daemon^}LogFile=$folder/$daemon.log"
    done
    # A container has neither systemd nor cgroups of its own.
    echo "ProctrackType=proctrack/linuxproc"
    echo "TaskPlugin=task/none"
    echo "SelectType=select/cons_tres"
    echo "SelectTypeParameters=CR_CPU"
    echo "ReturnToService=2"
    echo "MailProg=/bin/true"
    echo "NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=1000 State=UNKNOWN"
    echo "PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP"
  } >"$SLURM_CONF"
}

start_munged() {
  munge -n >/dev/null 2>&1 && return
  mkdir -p /run/munge
  chown munge /run/munge
  runuser -u munge -- munged --pid-file=/run/munge/munged.pid
  cp /run/munge/munged.pid "$folder/munged.pid"
}

wait_until_idle() {
  for _ in $(seq 60); do
    [ "$(sinfo --noheader --format %t 2>/dev/null)" = idle ] && return
    sleep 1
  done
  echo "the node is not idle after a minute; see $folder/slurmctld.log and slurmd.log" >&2
  exit 1
}

case $1 in
  start)
    install_missing
    write_settings
    start_munged
    slurmctld
    slurmd
    wait_until_idle
    sinfo
    ;;
  stop)
    for daemon in slurmd slurmctld munged; do
      [ ! -s "$folder/$daemon.pid" ] || kill "$(cat "$folder/$daemon.pid")" || true
    done
    ;;
  *) usage ;;
esac
