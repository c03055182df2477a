//! An interactive shell on a real terminal, with us between it and the command.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{World, eventually, exit_code};

/// A shell with job control.
const INTERACTIVE: [&str; 5] = ["bash", "--norc", "--noprofile", "--noediting", "-i"];

/// Runs a program as the first one of a new pid namespace, which ends with it.
const UNSHARE: [&str; 7] =
    ["unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--fork", "--kill-child"];

/// Such a shell on a terminal of its own.
struct Session {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    shell: Child,
    /// What was on the screen before is not looked at again.
    seen: usize,
    hung_up: Arc<AtomicBool>,
}

/// Waits for output; returns `false` if the terminal is to be given up.
fn waits_for_more(terminal: &File, stop: &AtomicBool) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let now_and_then = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    while !stop.load(Ordering::SeqCst) {
        if poll(&mut [PollFd::new(terminal, PollFlags::IN)], Some(&now_and_then)) != Ok(0) {
            return true;
        }
    }
    false
}

impl Session {
    fn start(world: &World) -> Self {
        Self::start_below(world, &[])
    }

    /// The same, started by others that are not of the session.
    fn start_below(world: &World, others: &[&str]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("usable");
        // What is started here must not keep it.
        rustix::io::fcntl_setfd(&keyboard, rustix::io::FdFlags::CLOEXEC).expect("set");
        let path = ptsname(&keyboard, Vec::new()).expect("named");
        let path = path.to_str().expect("UTF-8");
        let tty = OpenOptions::new().read(true).write(true).open(path).expect("opens");
        let shell = Command::new("env")
            .args(others)
            .args(["setsid", "--ctty", "env", "--default-signal"])
            .args(INTERACTIVE)
            .env("LEASEHOLD_STORE", world.store())
            .env("L", env!("CARGO_BIN_EXE_leasehold"))
            .env("PS1", "ready> ")
            .env("TERM", "dumb")
            // What is typed here is not for the history of whoever runs the tests.
            .env("HISTFILE", "")
            .current_dir(world.path(""))
            .stdin(tty.try_clone().expect("cloned"))
            .stdout(tty.try_clone().expect("cloned"))
            .stderr(tty)
            .spawn()
            .expect("starts");
        let keyboard = File::from(keyboard);
        let screen = Arc::new(Mutex::new(String::new()));
        let (mut from, to) = (keyboard.try_clone().expect("cloned"), screen.clone());
        let hung_up = Arc::new(AtomicBool::new(false));
        let stop = hung_up.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while waits_for_more(&from, &stop)
                && let Ok(n @ 1..) = from.read(&mut buffer)
            {
                to.lock().expect("fine").push_str(&String::from_utf8_lossy(&buffer[..n]));
            }
        });
        let mut session = Self { keyboard, screen, shell, seen: 0, hung_up };
        session.sees("ready> ");
        session
    }

    fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    /// Waits until the text is on the screen, and returns what came before it.
    fn sees(&mut self, text: &str) -> String {
        let (mut before, mut after) = (String::new(), None);
        eventually(text, || {
            let screen = &self.screen.lock().expect("fine")[self.seen..];
            after = screen.find(text).map(|at| self.seen + at + text.len());
            before = screen.to_owned();
            after.is_some()
        });
        self.seen = after.expect("just seen");
        before
    }

    /// Waits until the shell has its prompt again, and returns what was shown before. The shell saw us die of
    /// the signal: that is when it forgets the rest of the line.
    fn ended_by_ctrl_c(&mut self) -> String {
        let shown = self.sees("ready> ");
        self.types("echo code:$?\n");
        shown + &self.sees("code:130")
    }

    /// Takes the terminal away from everything that has it.
    fn hang_up(&mut self) {
        self.keyboard = File::open("/dev/null").expect("there");
        self.hung_up.store(true, Ordering::SeqCst);
    }

    /// Waits until the shell has ended, or what it became, and returns the exit code as another shell counts it.
    fn ended(&mut self) -> i32 {
        let mut status = None;
        eventually("the end of the session", || {
            status = self.shell.try_wait().expect("our child");
            status.is_some()
        });
        exit_code(status.expect("just seen"))
    }
}

impl Drop for Session {
    #[expect(clippy::print_stderr, reason = "a test that fails shows what was on the screen")]
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
        if let (true, Ok(screen)) = (thread::panicking(), self.screen.lock()) {
            eprintln!("on the screen:\n{screen}");
        }
    }
}

#[test]
fn command_reads_the_terminal() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'echo ask''ing; read x; echo got:$x'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.sees("ready> ");
    // The shell has its terminal back.
    session.types("read x; echo again:$x\nyes\n");
    session.sees("again:yes");
}

#[test]
fn ctrl_c_reaches_the_command_before_and_after_it_had_the_terminal() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'echo sleep''ing; exec sleep 1000'\n");
    session.sees("sleeping");
    session.types("\x03");
    session.ended_by_ctrl_c();
    session.types("$L run lock -- sh -c 'echo ask''ing; read x; echo got:$x; exec sleep 1000'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.types("\x03");
    session.ended_by_ctrl_c();
}

#[test]
fn ctrl_c_stops_the_script_around_us() {
    let world = World::new();
    let mut session = Session::start(&world);
    let reads = "sh -c 'echo ask''ing; read x; echo got:$x; exec sleep 1000'";
    // As the shell of a script sees it, whether the command had the terminal when the key was pressed or not.
    for (command, before) in [("sh -c 'echo sleep''ing; exec sleep 1000'", "sleeping"), (reads, "asking")] {
        let once = format!("$L run lock -- {command}; echo went''-on");
        let again = format!("for i in 1 2 3; do $L run lock -- {command}; echo went''-on; done");
        for script in [once, again] {
            session.types(&format!("cat > script <<'EOF'\n{script}\nEOF\nbash script\n"));
            session.sees(before);
            if command == reads {
                session.types("answer\n");
                session.sees("got:answer");
            }
            session.types("\x03");
            let shown = session.ended_by_ctrl_c();
            assert!(!shown.contains("went-on"), "{shown}");
            // The prompt lives, and the terminal is its own.
            session.types("read x; echo again:$x\nyes\n");
            session.sees("again:yes");
            assert_eq!(world.json(&["inspect", "lock"])["held"], false);
        }
    }
}

#[test]
fn ctrl_c_while_waiting_stops_the_script_around_us() {
    let world = World::new();
    world.json(&["acquire", "lock", "--ttl", "1h"]);
    let mut session = Session::start(&world);
    session.types("bash -c '$L run lock -- true; echo went\"\"-on'\n");
    session.sees("waiting ");
    session.types("\x03");
    let shown = session.ended_by_ctrl_c();
    assert!(!shown.contains("went-on"), "{shown}");
}

#[test]
fn command_that_stops_itself_stops_the_job() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'kill -STOP $$; echo resu''med'\n");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.sees("resumed");
    session.sees("ready> ");
}

#[test]
fn command_that_stops_itself_ends_with_ctrl_c_where_nobody_controls_jobs() {
    let world = World::new();
    let session = Session::start(&world);
    ends_with_ctrl_c_where_nobody_controls_jobs(&world, session);
}

fn ends_with_ctrl_c_where_nobody_controls_jobs(world: &World, mut session: Session) {
    let script = "(until grep -q '^State:.[Tt]' /proc/$$/status; do sleep 0.01; done; echo stopped) &
        kill -STOP $$";
    std::fs::write(world.path("stops"), script).expect("written");
    // Nobody could continue a job of this session, so it is not stopped; and it is not stuck.
    session.types("exec bash -c '$L run lock -- sh stops'\n");
    session.sees("stopped");
    session.types("\x03");
    assert_eq!(session.ended(), 130);
    world.held(false);
}

#[test]
fn jobs_are_controlled_where_the_session_is_of_another_pid_namespace() {
    let [unshare, options @ ..] = UNSHARE;
    let allowed = Command::new(unshare).args(options).arg("true").output().is_ok_and(|o| o.status.success());
    if !allowed {
        eprintln!("not run: this machine lets nobody make a pid namespace, as most containers do");
        return;
    }
    // The session of our ancestor is, ours is not.
    let world = World::new();
    let below = [&UNSHARE[..], &["sh", "-c", "\"$@\"; exit", "sh"]].concat();
    let session = Session::start_below(&world, &below);
    ends_with_ctrl_c_where_nobody_controls_jobs(&world, session);

    // Ours is.
    let world = World::new();
    let mut session = Session::start(&world);
    session.types(&format!("{} {}\n", UNSHARE.join(" "), INTERACTIVE.join(" ")));
    session.sees("ready> ");
    session.types("$L run lock -- sh -c 'kill -STOP $$; echo resu''med; read x; echo got:$x'\n");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.sees("resumed");
    session.types("answer\n");
    session.sees("got:answer");
    session.sees("ready> ");
    session.types("exit\n");
    session.sees("ready> ");
    world.held(false);
}

#[test]
fn ctrl_c_ends_the_first_process_of_a_namespace() {
    let [unshare, options @ ..] = UNSHARE;
    if !crate::processes::is_allowed(unshare, &[&options[..], &["true"]].concat()) {
        return;
    }
    let world = World::new();
    world.json(&["acquire", "held", "--ttl", "1h"]);
    let mut session = Session::start(&world);
    for (command, before) in [
        ("$L run lock -- sh -c 'echo sleep''ing; exec sleep 1000'", "sleeping"),
        ("$L run lock -- sh -c 'echo ask''ing; read x'", "asking"),
        ("$L run held -- true", "waiting "),
        ("$L acquire held", "waiting "),
    ] {
        session.types(&format!("{} {command}\n", UNSHARE.join(" ")));
        session.sees(before);
        session.types("\x03");
        session.ended_by_ctrl_c();
    }
}

#[test]
fn terminal_that_is_gone_is_one_sighup() {
    let world = World::new();
    let mut session = Session::start(&world);
    // The command has the terminal, so the kernel tells it; and the shell tells its job.
    let command = "sh -c 'trap \"echo hup >> hups\" HUP; echo ask''ing; read x; echo got:$x; until [ -e go ]; do sleep 0.01; done; echo >> out'";
    session.types(&format!("$L run lock -- {command}\n"));
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.hang_up();
    eventually("the signal", || world.path("hups").exists());
    world.json(&["inspect", "lock"]);
    // The shell has told its jobs before it ended.
    session.ended();
    std::fs::write(world.path("go"), "").expect("written");
    eventually("the end of the command", || world.path("out").exists());
    assert_eq!(std::fs::read_to_string(world.path("hups")).expect("there"), "hup\n");
    world.held(false);
}

#[test]
fn run_within_run_reads_the_terminal_and_stops_with_ctrl_c() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("bash -c '$L run outer -- $L run inner -- sh -c \"echo ask\\ing; read x; echo got:\\$x; exec sleep 1000\"; echo went\"\"-on'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.types("\x03");
    let shown = session.ended_by_ctrl_c();
    assert!(!shown.contains("went-on"), "{shown}");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    let world = World::new();
    let mut session = Session::start(&world);
    // Without the terminal. `exec`: a shell that is stopped while it starts a command may not stop at all.
    session.types("$L run lock -- sh -c 'echo start''ed; exec sleep 1000'\n");
    session.sees("started");
    session.types("\x1a");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.sees("sleep 1000");
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    session.sees("the lock was lost");
    session.sees("ready> ");

    // With it.
    session.types("$L run lock -- sh -c 'echo ask''ing; read x; echo got:$x; read y; echo got:$y'\n");
    session.sees("asking");
    session.types("one\n");
    session.sees("got:one");
    session.types("\x1a");
    session.sees("Stopped");
    session.types("echo shell:$((40+2))\n");
    session.sees("shell:42");
    session.types("fg\n");
    session.types("two\n");
    session.sees("got:two");
    session.sees("ready> ");
}

#[test]
fn pipelines_keep_the_terminal() {
    let world = World::new();
    let mut session = Session::start(&world);
    // The reader at the end of the pipe is in our group, and asks the terminal, as a pager does.
    session.types("$L run lock -- seq 3 | sh -c 'cat; echo ask''ing; read x < /dev/tty; echo got:$x'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.sees("ready> ");
}

#[test]
fn background_job_that_asks_is_stopped_until_it_is_in_the_foreground() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'read x; echo got:$x' &\n");
    session.sees("ready> ");
    let mut stopped = false;
    for _ in 0..200 {
        session.types("jobs\n");
        session.sees("jobs");
        session.sees("ready> ");
        stopped = session.screen.lock().expect("fine").contains("Stopped");
        if stopped {
            break;
        }
    }
    assert!(stopped, "never seen: the stop");
    session.types("fg\n");
    session.types("answer\n");
    session.sees("got:answer");
}

#[test]
fn waiting_shows_who_holds_the_lock_and_clears_the_line() {
    let world = World::new();
    let ticket = world.json(&["acquire", "lock", "--ttl", "1h", "--label", "some\u{1b}body"]);
    let ticket = ticket["ticket"].as_str().expect("text").to_owned();
    let mut session = Session::start(&world);
    session.types("$L run lock -- echo granted''-now\n");
    session.sees("waiting ");
    session.sees(r"held by some\u{1b}body");
    assert_eq!(crate::harness::code(&world.output(&["release", &ticket])), 0);
    session.sees("\r\u{1b}[K");
    session.sees("granted-now");
}
