# The first process of a node, and the parent of whatever is orphaned in it. When it ends, the kernel
# ends every other process of the node and lets go of its mounts.
#
# Arguments: the node's name, the state folder, the folder with Kubernetes' programs, and the control
# group mounts, one "<folder> <options>" a line.
set -eu
node=$1 state=$2 programs=$3 cgroups=$4

# /proc still shows the machine's process ids, not the node's: tell them ours. The redirection is
# the shell's own, so "self" is the shell.
read -r pid _ </proc/self/stat

# Without this, mount leaves a folder for its notes in the machine's /run.
mount() {
    command mount --no-mtab "$@"
}

hostname "$node"
mount --make-rshared /
mount -t proc proc /proc
mount -t sysfs sysfs /sys

if [ "$cgroups" = cgroup2 ]; then
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
    while read -r folder options; do
        mkdir "/sys/fs/cgroup/$folder"
        mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$folder"
        # Controllers that share a hierarchy are looked for under the name of each.
        case $folder in
            *,*) for name in ${folder//,/ }; do ln -s "$folder" "/sys/fs/cgroup/$name"; done ;;
        esac
    done <<<"$cgroups"
fi

# The state folder moves to where the mounts below do not hide it. See layout.rs.
mount --bind "$programs" "$state/bin"
mount --rbind "$state" /mnt
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mount --bind "/mnt/$node/var-lib" /var/lib
mount --bind "/mnt/$node/var-log" /var/log

# Nothing can be reached from here, so nothing should be asked: a name that cannot be resolved fails
# at once rather than after a timeout.
if [ -e /etc/resolv.conf ]; then
    mount --bind /mnt/resolv.conf /etc/resolv.conf
fi

# The kubelet sets these three for the whole machine. It finds what it wants, and sets nothing.
pretend() {
    echo "$2" >"/mnt/$node/sysctl/${1//\//_}"
    mount --bind "/mnt/$node/sysctl/${1//\//_}" "/proc/sys/$1"
}
pretend vm/overcommit_memory 1
pretend kernel/panic 10
pretend kernel/panic_on_oops 1

echo 1 >/proc/sys/net/ipv4/ip_forward

echo "$pid" >"/mnt/$node/init.pid.new"
mv "/mnt/$node/init.pid.new" "/mnt/$node/init.pid"

while :; do
    sleep 86400 &
    wait $!
done
