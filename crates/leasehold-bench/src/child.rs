//! Child processes of this program, which receive commands and report results line by line.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;

use crate::Result;
use crate::contestant::Contestant;

/// Processes that run one hidden subcommand. Dropping this kills them.
pub(crate) struct Children {
    children: Vec<Child>,
    inputs: Vec<ChildStdin>,
    /// The lines of all processes with their number; `None` when one has ended.
    lines: mpsc::UnboundedReceiver<(usize, Option<String>)>,
}

impl Children {
    pub(crate) fn spawn(contestant: Contestant, store: &str, count: usize, worker: &[&str]) -> Result<Self> {
        let (sender, lines) = mpsc::unbounded_channel();
        let (mut children, mut inputs) = (Vec::new(), Vec::new());
        for i in 0..count {
            let mut child = Command::new(std::env::current_exe()?)
                .args(["--store", store, "--contestant", contestant.argument()])
                .args(worker)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()?;
            inputs.push(child.stdin.take().ok_or("no stdin")?);
            let mut output = BufReader::new(child.stdout.take().ok_or("no stdout")?).lines();
            let sender = sender.clone();
            tokio::spawn(async move {
                loop {
                    let line = output.next_line().await.unwrap_or(None);
                    let last = line.is_none();
                    if sender.send((i, line)).is_err() || last {
                        return;
                    }
                }
            });
            children.push(child);
        }
        Ok(Self { children, inputs, lines })
    }

    pub(crate) async fn tell(&mut self, child: usize, line: &str) -> Result {
        Ok(self.inputs[child].write_all(format!("{line}\n").as_bytes()).await?)
    }

    pub(crate) async fn tell_all(&mut self, line: &str) -> Result {
        for child in 0..self.inputs.len() {
            self.tell(child, line).await?;
        }
        Ok(())
    }

    /// Returns the next line of any process, and the number of that process.
    pub(crate) async fn next(&mut self) -> Result<(usize, String)> {
        match self.lines.recv().await {
            Some((child, Some(line))) => Ok((child, line)),
            _ => Err("a worker ended too early".into()),
        }
    }

    /// Returns one line of each process.
    pub(crate) async fn next_of_all(&mut self) -> Result<Vec<String>> {
        let mut all = vec![String::new(); self.children.len()];
        for _ in 0..all.len() {
            let (child, line) = self.next().await?;
            all[child] = line;
        }
        Ok(all)
    }

    /// Closes the standard input of the processes, which ends them, and waits for their end.
    pub(crate) async fn finish(mut self) -> Result {
        self.inputs.clear();
        for child in &mut self.children {
            if !child.wait().await?.success() {
                return Err("a worker failed".into());
            }
        }
        Ok(())
    }
}

/// The lines that a child receives.
pub(crate) struct Orders(Lines<BufReader<Stdin>>);

impl Orders {
    pub(crate) fn new() -> Self {
        Self(BufReader::new(tokio::io::stdin()).lines())
    }

    /// Returns the next line, or `None` at the end of the input.
    pub(crate) async fn next(&mut self) -> Result<Option<String>> {
        Ok(self.0.next_line().await?)
    }
}
