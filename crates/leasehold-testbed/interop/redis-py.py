"""The lock of PyPI redis. The key is the name, the value a UUID.

Runs by commands on standard input, one per line: `acquire NAME TTL_MS`, `release`, `extend MS`. The answer to each is a
line on standard output: `ok`, `no`, or `error TEXT`. The first line is `ready`.
"""

import sys

import redis
from redis.exceptions import LockError

client = redis.Redis.from_url(sys.argv[1])
lock = None


def acquire(name, ttl):
    global lock
    lock = client.lock(name, timeout=int(ttl) / 1000, blocking=False)
    return lock.acquire()


def release():
    return unless_refused(lock.release)


def extend(ttl):
    return unless_refused(lambda: lock.extend(int(ttl) / 1000, replace_ttl=True))


def unless_refused(ask):
    try:
        ask()
        return True
    except LockError:
        return False


def answer(command, *args):
    try:
        commands = {"acquire": acquire, "release": release, "extend": extend}
        return "ok" if commands[command](*args) else "no"
    except Exception as error:
        return "error " + " ".join(str(error).split())


client.ping()
print("ready", flush=True)
for line in sys.stdin:
    print(answer(*line.split()), flush=True)
