//! An interactive shell on a terminal of its own.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::harness::{World, eventually, exit_code};

/// A shell with job control.
pub(crate) const INTERACTIVE: [&str; 5] = ["bash", "--norc", "--noprofile", "--noediting", "-i"];

/// Such a shell, its keyboard and its screen.
pub(crate) struct Session {
    keyboard: File,
    screen: Arc<Mutex<String>>,
    shell: Child,
    /// How much of the screen was already looked at.
    seen: usize,
    hung_up: Arc<AtomicBool>,
}

/// Waits for output. Returns `false` when the terminal is given up.
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
    /// Starts a shell.
    pub(crate) fn start(world: &World) -> Self {
        Self::start_below(world, &[])
    }

    /// Starts it below other programs that are not of the session.
    pub(crate) fn start_below(world: &World, others: &[&str]) -> Self {
        let keyboard = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&keyboard).and_then(|()| unlockpt(&keyboard)).expect("usable");
        // The programs that the test starts must not keep it open.
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
            // The typed commands do not belong in the history of the person who runs the tests.
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

    /// Types on the keyboard.
    pub(crate) fn types(&mut self, text: &str) {
        self.keyboard.write_all(text.as_bytes()).expect("typed");
    }

    /// Waits until the text is on the screen, and returns what came before it.
    pub(crate) fn sees(&mut self, text: &str) -> String {
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

    /// Waits until the shell has its prompt again, and returns what was shown before. The shell has seen that the program
    /// died of the signal: only then it forgets the rest of the line.
    pub(crate) fn ended_by_ctrl_c(&mut self) -> String {
        let shown = self.sees("ready> ");
        self.types("echo code:$?\n");
        shown + &self.sees("code:130")
    }

    /// Returns `true` if the text was ever on the screen.
    pub(crate) fn has_shown(&self, text: &str) -> bool {
        self.screen.lock().expect("fine").contains(text)
    }

    /// Takes the terminal away from every process that has it.
    pub(crate) fn hang_up(&mut self) {
        self.keyboard = File::open("/dev/null").expect("there");
        self.hung_up.store(true, Ordering::SeqCst);
    }

    /// Waits until the shell, or the program that it became, has ended. Returns the exit code as another shell counts it.
    pub(crate) fn ended(&mut self) -> i32 {
        let mut status = None;
        eventually("the end of the session", || {
            status = self.shell.try_wait().expect("a child of this test");
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
