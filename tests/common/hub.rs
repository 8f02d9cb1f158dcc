//! A Hugging Face Hub on the loopback (tests/scripts/hub_server.py), and a shop whose study is over it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};

use super::{Tiny, Workshop, texts};

pub struct Hub {
    process: Child,
    pub address: String,
    /// Where large files come from.
    pub cdn: String,
    pub root: PathBuf,
}

impl Hub {
    /// Serves the folder; whatever is put into it later is served as well.
    pub fn over(root: &Path) -> Self {
        Self::start(root, None)
    }

    /// The same by TLS, with a certificate that only tests/fixtures/loopback/authority.pem vouches for.
    pub fn over_tls(root: &Path) -> Self {
        Self::start(root, Some("tests/fixtures/loopback/server.pem"))
    }

    fn start(root: &Path, certificate: Option<&str>) -> Self {
        let mut server = Command::new("python3");
        server.arg("tests/scripts/hub_server.py").arg(root).args(certificate);
        let mut process = server.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (address, cdn) = line.trim().split_once(' ').unwrap();
        Self { process, address: address.into(), cdn: cdn.into(), root: root.to_owned() }
    }

    /// Sets switches of the server.
    pub fn set(&self, switches: Value) {
        self.ask("POST", "/_set", &switches.to_string());
    }

    /// What was asked for since this was last asked.
    pub fn log(&self) -> Vec<Value> {
        serde_json::from_str(&self.ask("GET", "/_log", "")).unwrap()
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let host = self.address.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        write!(stream, "{method} {path} HTTP/1.0\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    /// Puts a file into a repository, such as `datasets/o/rows`.
    pub fn put(&self, repository: &str, file: &str, content: impl AsRef<[u8]>) {
        let path = self.root.join(repository).join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A study of one cell and the dense one.
pub fn small(model: &str, data: &str) -> String {
    format!(
        "name = \"small\"\n[model]\nsource = \"{model}\"\n[grid]\nmethod = [\"magnitude\"]\nsparsity = [0.5]\n\
         [suite.text]\ndataset = \"{data}\"\nwindows = 3\nlength = 32\n"
    )
}

/// A shop whose model and rows are on a Hub: `hf:o/tiny` and the files of `hf:datasets/o/rows`.
pub struct Online {
    pub shop: Workshop,
    pub hub: Hub,
}

impl Online {
    pub fn new(tiny: &Tiny) -> Self {
        let shop = Workshop::new(tiny);
        let hub = Hub::over(&shop.path("hub"));
        tiny.write(&hub.root.join("models/o/tiny"));
        for name in ["rows.jsonl", "other.jsonl", "test.jsonl"] {
            hub.put("datasets/o/rows", name, std::fs::read(shop.path(name)).unwrap());
        }
        let online = Self { shop, hub };
        online.recipe("hf:o/tiny", "hf:datasets/o/rows/test.jsonl");
        online
    }

    /// Writes small.toml.
    pub fn recipe(&self, model: &str, data: &str) {
        std::fs::write(self.shop.path("small.toml"), small(model, data)).unwrap();
    }

    /// The program, which knows no other Hub and no token but this.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.shop.command(arguments);
        for (name, _) in std::env::vars_os() {
            let shown = name.to_string_lossy().to_uppercase();
            if shown.starts_with("HF_") || shown.starts_with("HUGGING") || shown.contains("PROXY") {
                command.env_remove(name);
            }
        }
        command.env_remove("TRANSFORMERS_OFFLINE");
        command.env("HF_ENDPOINT", &self.hub.address).env("HF_HOME", self.shop.path("hf"));
        command
    }

    /// Exit code and stderr of `calipr run small.toml`.
    pub fn run(&self, variables: &[(&str, &str)]) -> (Option<i32>, String) {
        let output: Output = self.command(&["run", "small.toml"]).envs(variables.iter().copied()).output().unwrap();
        (output.status.code(), texts(&output).1)
    }

    pub fn succeeds(&self) -> String {
        let (code, stderr) = self.run(&[]);
        assert_eq!(code, Some(0), "{stderr}");
        stderr
    }

    /// Fails, and says all of this.
    pub fn fails(&self, variables: &[(&str, &str)], says: &[&str]) -> String {
        let (code, stderr) = self.run(variables);
        assert!(code != Some(0), "{stderr}");
        says.iter().for_each(|says| assert!(stderr.contains(says), "{says}: {stderr}"));
        stderr
    }

    /// What the cache has of a repository, such as `models--o--tiny`.
    pub fn cached(&self, repository: &str) -> PathBuf {
        self.shop.path("hf/hub").join(repository)
    }

    /// Forgets all that was fetched.
    pub fn forget(&self) {
        let _ = std::fs::remove_dir_all(self.shop.path("hf"));
    }
}

/// The first answer to an address with `path` in it ends after so many bytes.
pub fn cut(path: &str, after: usize, times: usize) -> Value {
    json!({"cut": {"path": path, "after": after, "times": times}})
}
