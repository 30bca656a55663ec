//! Processes of the program, and what they say.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use serde_json::Value;

/// How long a line, an answer or an end may take before the test fails; far past what it does take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program with arguments, and without what the tester's environment says.
fn lamplight(args: &[&str]) -> Command {
    started_by(Command::new(env!("CARGO_BIN_EXE_lamplight")), args)
}

/// The same, of a command that starts it.
fn started_by(mut command: Command, args: &[&str]) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LAMPLIGHT_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A process that runs on, and the lines that it prints. It is killed when it is dropped.
pub struct Running {
    child: Child,
    out: Receiver<String>,
    err: Receiver<String>,
}

impl Running {
    pub fn start(args: &[&str]) -> Running {
        Running::read(lamplight(args).stdin(Stdio::piped()))
    }

    fn read(command: &mut Command) -> Running {
        let mut child = command.spawn().expect("the program starts");
        let out = lines(child.stdout.take().unwrap());
        let err = lines(child.stderr.take().unwrap());
        Running { child, out, err }
    }

    /// One that may have so many open files at the most.
    pub fn start_narrow(files: u32, args: &[&str]) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_lamplight")]);
        Running::read(&mut started_by(command, args))
    }

    /// One that nobody reads: its standard output is a pipe without a reader.
    pub fn start_unread(args: &[&str]) -> Running {
        let mut child = lamplight(args).spawn().expect("the program starts");
        drop(child.stdout.take());
        let err = lines(child.stderr.take().unwrap());
        Running { child, out: mpsc::channel().1, err }
    }

    /// One whose reader takes a line and then no more.
    pub fn start_stuck(args: &[&str]) -> (Running, BufReader<ChildStdout>) {
        let mut child = lamplight(args).spawn().expect("the program starts");
        let mut out = BufReader::with_capacity(1, child.stdout.take().unwrap());
        out.read_line(&mut String::new()).unwrap();
        let err = lines(child.stderr.take().unwrap());
        (Running { child, out: mpsc::channel().1, err }, out)
    }

    /// Its standard input.
    pub fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// The next line of its output.
    pub fn line(&self) -> String {
        self.out.recv_timeout(PATIENCE).unwrap_or_else(|why| {
            let said: Vec<String> = self.err.try_iter().collect();
            panic!("no line on standard output ({why}); on standard error: {said:?}")
        })
    }

    /// The same, as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.line()).unwrap()
    }

    /// The next line on standard error that has these words.
    pub fn says(&self, words: &str) -> String {
        loop {
            let line =
                self.err.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no line on standard error with {words:?}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits until it ends; its exit code.
    pub fn code(&mut self) -> Option<i32> {
        // The pipe closes when the process ends, and that can be waited for with a bound.
        while self
            .err
            .recv_timeout(PATIENCE)
            .map_err(|error| assert_eq!(error, mpsc::RecvTimeoutError::Disconnected))
            .is_ok()
        {}
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    // Reads on when nobody asks, so that the process never waits for a full pipe.
    thread::spawn(move || BufReader::new(from).lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
    receiver
}

/// A node.
pub struct Node {
    pub process: Running,
    pub url: String,
}

impl Node {
    /// Starts a node on a free port, and waits until it takes reads and writes.
    pub fn start(args: &[&str]) -> Node {
        let node = Node::start_unready(args);
        node.process.says("ready");
        node
    }

    /// Starts a node on a free port, and waits until it listens.
    pub fn start_unready(args: &[&str]) -> Node {
        Node::listening(Running::start(&[&["serve", "--memory", "--listen", "127.0.0.1:0"], args].concat()))
    }

    /// A node in a process that was started, once it listens on this machine.
    pub fn listening(process: Running) -> Node {
        let line = process.says("http://127.0.0.1:");
        let port: String =
            line.split("http://127.0.0.1:").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        Node { process, url: format!("http://127.0.0.1:{port}") }
    }

    /// Runs a client command on this node.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "")
    }

    /// The same, with something to read.
    pub fn run_with(&self, args: &[&str], input: &str) -> Ran {
        run_with(&[args, &["--url", &self.url]].concat(), input)
    }

    /// A connection to it.
    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.url.trim_start_matches("http://")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Waits until this node holds what another does: the nodes themselves know how.
    pub fn holds_what(&self, other: &Node) {
        let session = other.request("");
        let session = session.lines().find(|line| line.starts_with("lamplight-session:")).expect("every answer has it");
        let answer = self.request(&format!("{session}\r\n"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    fn request(&self, header: &str) -> String {
        let mut stream = self.connect();
        write!(stream, "GET /v1/collections HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// What a command that has ended left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    /// Its output, if it was done and had nothing to complain of.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!((self.code, &*self.err), (0, ""), "{self:?}");
        self.out
    }

    /// The same, as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// Checks that it failed with a code and these words, and printed nothing.
    #[track_caller]
    pub fn failed(self, code: i32, words: &str) {
        assert_eq!((self.code, &*self.out), (code, ""), "{self:?}");
        assert!(self.err.contains(words), "{words:?} is not in {self:?}");
    }
}

/// Runs a command to its end.
pub fn run(args: &[&str]) -> Ran {
    run_with(args, "")
}

/// The same, in an environment.
pub fn run_in(args: &[&str], environment: &[(&str, &str)]) -> Ran {
    ended(lamplight(args).envs(environment.iter().copied()).spawn().expect("the program starts"))
}

/// The same, with something to read.
pub fn run_with(args: &[&str], input: &str) -> Ran {
    let mut child = lamplight(args).stdin(Stdio::piped()).spawn().expect("the program starts");
    // A command that does not read it has closed the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    ended(child)
}

fn ended(child: Child) -> Ran {
    let output = child.wait_with_output().unwrap();
    Ran {
        code: output.status.code().expect("no signal ended it"),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}
