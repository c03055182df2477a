//! The program, controlled by command lines.

use std::process::{ExitStatus, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::bench::{ends_by_reset, receive, send, soon};

struct Program {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    events: Vec<Value>,
    listener: TcpListener,
    address: String,
}

impl Program {
    async fn start(options: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let server = listener.local_addr().expect("it is bound").to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_faultproxy"));
        command.args(["--to", &server]).args(options).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it is built");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let mut program = Self { child, input, output, events: Vec::new(), listener, address: String::new() };
        let first = program.line().await.expect("it says where it listens");
        program.address = first["listening"].as_str().expect("an address").to_owned();
        program
    }

    async fn line(&mut self) -> Option<Value> {
        let line = soon(self.output.next_line()).await.expect("text")?;
        Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}")))
    }

    async fn write(&mut self, line: &str) {
        let input = self.input.as_mut().expect("it is open");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it reads");
    }

    /// Writes a line and waits for its answer. Keeps the events that come before it.
    async fn ask(&mut self, line: &str) -> Value {
        self.write(line).await;
        self.answer().await
    }

    async fn answer(&mut self) -> Value {
        loop {
            let line = self.line().await.expect("an answer comes");
            if line.get("event").is_none() {
                return line;
            }
            self.events.push(line);
        }
    }

    async fn connect(&self) -> (TcpStream, TcpStream) {
        let client = soon(TcpStream::connect(&self.address)).await.expect("it accepts");
        (client, soon(self.listener.accept()).await.expect("it connects").0)
    }

    /// Reads the rest of the output, and returns the exit status.
    async fn end(&mut self) -> ExitStatus {
        while let Some(line) = self.line().await {
            self.events.push(line);
        }
        soon(self.child.wait()).await.expect("it is our child")
    }

    fn has_said(&self, event: &Value) -> bool {
        self.events.contains(event)
    }
}

#[tokio::test]
async fn lines_set_rules_and_events_are_printed() {
    let mut program = Program::start(&[]).await;
    let trap = r#"trap lost request "owner-\x31" cut-reply reset   # the first reply"#;
    assert_eq!(program.ask(trap).await, json!({ "line": 1, "ok": true }));
    let (mut client, mut server) = program.connect().await;
    send(&mut client, b"CLAIM owner-1").await;
    receive(&mut server, 13).await;
    let passed = program.ask("wait trap lost passed").await;
    assert_eq!(passed["ok"], json!({ "passed": 1, "sprung": 0, "connection": 1 }));
    // A wait is answered when it is over.
    program.write("wait trap lost sprung").await;
    send(&mut server, b"GRANTED").await;
    assert_eq!(program.answer().await["ok"]["sprung"], 1);
    ends_by_reset(&mut client).await;
    let stats = program.ask("wait open == 0").await;
    assert_eq!((&stats["ok"]["from_server"], &stats["ok"]["to_client"]), (&json!(7), &json!(0)));
    program.write("quit").await;
    assert!(program.end().await.success());
    for event in ["accepted", "reached", "ended", "closed"] {
        assert!(
            program.has_said(&json!({ "event": event, "connection": 1 })),
            "{event}: {:?}",
            program.events
        );
    }
    for event in ["passed", "sprung"] {
        assert!(program.has_said(&json!({ "event": event, "trap": 1, "connection": 1 })), "{event}");
    }
}

#[tokio::test]
async fn every_command_is_answered() {
    let mut program = Program::start(&["--seed", "7"]).await;
    let (mut client, mut server) = program.connect().await;
    let upstream = format!("upstream {}", program.listener.local_addr().expect("it is bound"));
    let lines = [
        "flow all both delay 1ms jitter 1ms",
        "flow 1 to-server throttle 1000000",
        "flow new to-client pass",
        "cut new to-client after 5 close",
        "port closed",
        "port open",
        upstream.as_str(),
        "trap a reply \"x\" on open times 2 hold",
        "untrap a",
        "resume all",
        "end 99 reset",
        "heal",
    ];
    for line in lines {
        assert_eq!(program.ask(line).await["ok"], true, "{line}");
    }
    send(&mut client, b"ping").await;
    assert_eq!(receive(&mut server, 4).await, b"ping");
    program.ask("wait to_server >= 4").await;
    let connections = program.ask("connections").await;
    assert_eq!(
        (&connections["ok"][0]["connection"], &connections["ok"][0]["to_server"]),
        (&json!(1), &json!(4))
    );
    assert_eq!(program.ask("stats").await["ok"]["accepted"], 1);
}

#[tokio::test]
async fn a_wrong_line_changes_nothing_and_is_remembered() {
    let mut program = Program::start(&["--exit-with-stdin"]).await;
    for (line, wanted) in [
        ("flow all both black-hole please", "word=`please`"),
        ("wait trap other sprung", "name=`other`"),
        ("\u{1F512}", "write flow"),
    ] {
        let answer = program.ask(line).await;
        assert!(answer["error"].as_str().is_some_and(|error| error.contains(wanted)), "{answer}");
    }
    program.input.as_mut().expect("it is open").write_all(b"\xff\xfe\n").await.expect("it reads");
    assert!(program.answer().await.get("error").is_some());
    assert_eq!(program.ask("trap a request \"b\" watch").await["ok"], true);
    assert!(program.ask("trap a request \"b\" watch").await.get("error").is_some());
    let (mut client, mut server) = program.connect().await;
    send(&mut client, b"ping").await;
    assert_eq!(receive(&mut server, 4).await, b"ping");
    program.input = None;
    assert_eq!(program.end().await.code(), Some(65));
}

#[tokio::test]
async fn it_ends_with_its_input_if_asked() {
    let mut program = Program::start(&["--exit-with-stdin"]).await;
    program.write("# nothing to say").await;
    program.input = None;
    assert_eq!(program.end().await.code(), Some(0));
}

#[cfg(unix)]
#[tokio::test]
async fn the_control_socket_takes_the_same_lines() {
    let folder = tempfile::tempdir().expect("a directory");
    let path = folder.path().join("control.sock");
    let mut program = Program::start(&["--control", path.to_str().expect("text")]).await;
    // After the end of the input, the socket goes on.
    program.input = None;
    let mut control = soon(tokio::net::UnixStream::connect(&path)).await.expect("it listens");
    let (read, mut write) = control.split();
    let mut answers = BufReader::new(read).lines();
    let lines = "port silent\nwait accepted >= 1\nnonsense\n";
    write.write_all(lines.as_bytes()).await.expect("it reads");
    let mut next = async || -> Value {
        let line = soon(answers.next_line()).await.expect("text").expect("an answer");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(next().await, json!({ "line": 1, "ok": true }));
    let _client = soon(TcpStream::connect(&program.address)).await.expect("it accepts");
    assert_eq!(next().await["ok"]["open"], 1);
    assert!(next().await["error"].is_string());
    write.write_all(b"quit\n").await.expect("it reads");
    assert_eq!(program.end().await.code(), Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_server_that_cannot_be_is_refused() {
    for to in ["localhost", "unix:", "host:99999", ":1"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_faultproxy"));
        let output =
            soon(command.args(["--to", to]).stdin(Stdio::null()).output()).await.expect("it is built");
        assert_eq!(output.status.code(), Some(2), "{to}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_faultproxy"));
    command.args(["--to", "localhost:1", "--listen", "0.0.0.0:0"]).stdin(Stdio::null()).kill_on_drop(true);
    let output = soon(command.output()).await.expect("it is built");
    assert_eq!(output.status.code(), Some(71));
}
