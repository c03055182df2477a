//! What `leasehold run --help` says below the options. A test compares it with what each signal does.

pub(crate) const TEXT: &str = "\
Out of reach:
  Processes that leave the command's process group, as daemons and `setsid` do, live on when the lock is lost and when
  `leasehold` dies. So do processes that run as another user, as below `sudo`: `leasehold` warns as soon as it sees
  one. Write `sudo leasehold run …` instead. A second process, `lh-guardian`, ends the group when `leasehold` cannot,
  because it was killed or is stopped. `leasehold` starts another guardian when one ends. If both are killed at once, or
  `leasehold` while the guardian is stopped, then only the command itself ends, and its children live on.

Signals that are passed on to the command's group:
  HUP INT QUIT ABRT USR1 USR2 ALRM TERM STKFLT XCPU XFSZ VTALRM PROF IO PWR URG WINCH CONT
  TSTP, which stops the whole job if a shell would continue it

Signals without effect:
  PIPE CHLD

Signals that stop `leasehold` but not the command, which then ends with the lease:
  STOP TTIN TTOU

Signals that end `leasehold` and the command's group at once:
  KILL ILL TRAP FPE SYS, and those from 34 to 64
  SEGV BUS, the second time that they are sent: the runtime takes the first one for a fault that will come again

What was blocked or ignored when `leasehold` was started is blocked or ignored for the command, too. An ignored signal
has no effect. Signals 32 and 33 belong to the C library. The same request (HUP INT QUIT TERM) twice within 100 ms, as
`timeout` sends it, is one request. A request that every process gets, as from systemd, is not passed on.";
