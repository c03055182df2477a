# Waits until the other end of standard input is closed, which the kernel does when the test process has ended,
# however it ended. Then it kills every process that works in the directory $1, and removes the directory.
# Processes are found by their working directory: PostgreSQL's are in sessions of their own.
trap '' HUP INT QUIT TERM TSTP
read -r _

kill_all() {
    found=1
    for cwd in /proc/[0-9]*/cwd; do
        case $(readlink "$cwd" 2>/dev/null) in
        "$1" | "$1"/* | "$1 (deleted)")
            pid=${cwd#/proc/}
            kill -KILL "${pid%/cwd}" 2>/dev/null && found=0
            ;;
        esac
    done
    return $found
}

while kill_all "$1"; do :; done
if [ -z "$LEASEHOLD_TESTBED_KEEP" ]; then
    # Small disks, which no process uses any more.
    while read -r _ at _; do
        case $at in "$1"/*) umount "$at" || umount -l "$at" ;; esac
    done </proc/self/mounts
    rm -rf "$1"
    # Processes that were just starting.
    while kill_all "$1"; do :; done
    rm -rf "$1"
fi
