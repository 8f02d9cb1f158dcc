//! One blob: going on from what is there, checked against the digest that the Hub calls it by.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::thread;

use anyhow::Context;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::client::{Client, broken, pause};
use super::failure::{Failure, Refused};
use super::watch::{is_interrupted, tell};

/// A file of a repository, as the Hub describes it.
#[derive(Debug, Clone)]
pub struct Piece {
    /// Its path in the repository.
    pub file: String,
    /// What the Hub calls its content by.
    pub etag: String,
    /// Where the Hub says it.
    pub size: Option<u64>,
    pub url: String,
}

/// What is known of a content before it is there.
enum Check {
    /// Of a large file: SHA-256.
    Large(Sha256),
    /// Of a file that is in git: SHA-1 over a header with its size and the content.
    Git(Sha1),
    /// Only the size.
    Size,
}

impl Check {
    fn of(piece: &Piece) -> Self {
        let is_hex = piece.etag.chars().all(|c| c.is_ascii_hexdigit());
        match (piece.etag.len(), piece.size) {
            (64, _) if is_hex => Self::Large(Sha256::new()),
            (40, Some(size)) if is_hex => Self::Git(Sha1::new().chain_update(format!("blob {size}\0"))),
            _ => Self::Size,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Large(hasher) => hasher.update(bytes),
            Self::Git(hasher) => hasher.update(bytes),
            Self::Size => {}
        }
    }

    /// The digest; None where none is known to compare with.
    fn digest(self) -> Option<String> {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Large(hasher) => Some(hex(&hasher.finalize())),
            Self::Git(hasher) => Some(hex(&hasher.finalize())),
            Self::Size => None,
        }
    }
}

/// A blob that grows.
struct Growing<'a> {
    path: &'a Path,
    file: File,
    done: u64,
    check: Check,
}

/// What is read at once.
const CHUNK: usize = 1 << 20;

/// A part of a large file, in bytes. It stays in memory until those before it are there.
const PART: u64 = 32 << 20;

impl<'a> Growing<'a> {
    /// From what is there.
    fn open(path: &'a Path, piece: &Piece) -> anyhow::Result<Self> {
        let cannot = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).with_context(cannot)?;
        let (mut check, mut done, mut buffer) = (Check::of(piece), 0, vec![0; CHUNK]);
        loop {
            match file.read(&mut buffer).with_context(cannot)? {
                0 => break,
                count => {
                    check.update(&buffer[..count]);
                    done += count as u64;
                }
            }
        }
        let mut growing = Self { path, file, done, check };
        if piece.size.is_some_and(|size| size < done) {
            growing.restart(piece)?;
        }
        Ok(growing)
    }

    fn add(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).with_context(|| format!("cannot write {}", self.path.display()))?;
        self.check.update(bytes);
        self.done += bytes.len() as u64;
        Ok(())
    }

    /// From nothing.
    fn restart(&mut self, piece: &Piece) -> anyhow::Result<()> {
        self.file.set_len(0).with_context(|| format!("cannot write {}", self.path.display()))?;
        (self.done, self.check) = (0, Check::of(piece));
        Ok(())
    }
}

impl Piece {
    /// Downloads it to `partial`, which may have its beginning, and from there to `blob`. Of a large one so many parts come
    /// at once.
    pub fn download(&self, client: &Client, partial: &Path, blob: &Path, at_once: usize) -> Result<(), Failure> {
        let found = partial.metadata().map_or(0, |about| about.len());
        match self.grow(client, partial, blob, at_once) {
            // What another process has left may have been wrong from the beginning.
            Err(Failure::Strange(said)) if found > 0 => {
                tracing::info!("{said}; fetching it anew");
                tell(|watch| watch.loses(found));
                self.grow(client, partial, blob, at_once)
            }
            done => done,
        }
    }

    fn grow(&self, client: &Client, partial: &Path, blob: &Path, at_once: usize) -> Result<(), Failure> {
        let mut growing = Growing::open(partial, self).map_err(Failure::Here)?;
        let (mut tries, mut in_parts) = (0, at_once > 1);
        while self.size.is_none_or(|size| growing.done < size) {
            let before = growing.done;
            let left = self.size.map_or(0, |size| size - before);
            let came = match in_parts && left >= 2 * PART {
                true => self.parts(client, &mut growing, at_once),
                false => self.stream(client, &mut growing).map(|()| false),
            };
            match came {
                // One answer was to bring all that was left.
                Ok(_) if !in_parts || left < 2 * PART => break,
                Ok(came) => (in_parts, tries) = (came, 0),
                Err(Failure::Passing { said, wait }) => {
                    if growing.done > before {
                        tries = 0;
                    }
                    let place = self.size.map_or(String::new(), |size| format!(" at {} of {size} bytes", growing.done));
                    pause(&mut tries, &format!("{}{place}: {said}", self.file), wait)?;
                }
                Err(other) => return Err(other),
            }
        }
        let Growing { file, done, check, .. } = growing;
        let wrong = match (self.size, check.digest()) {
            (Some(size), _) if size != done => Some(format!("{done} bytes came instead of {size}")),
            (_, Some(digest)) if digest != self.etag => {
                Some(format!("its digest is {digest}, where the Hub says {}", self.etag))
            }
            _ => None,
        };
        if let Some(wrong) = wrong {
            drop(file);
            let gone = fs::remove_file(partial).with_context(|| format!("cannot delete {}", partial.display()));
            gone.map_err(Failure::Here)?;
            return Err(Failure::Strange(format!(
                "{} is not what the Hub says it is ({wrong}); what came was deleted",
                self.file
            )));
        }
        let kept = file.sync_all().and_then(|()| fs::rename(partial, blob));
        kept.with_context(|| format!("cannot write {}", blob.display())).map_err(Failure::Here)
    }

    /// Some parts of a large file, which come at once, each into memory, and are written in order: whoever goes on finds its
    /// beginning. False where the server sends no parts.
    fn parts(&self, client: &Client, growing: &mut Growing, at_once: usize) -> Result<bool, Failure> {
        let (begin, size) = (growing.done, self.size.unwrap_or(growing.done));
        let starts = (0..at_once as u64).map(|i| begin + i * PART).filter(|start| *start < size);
        let parts: Vec<Result<Option<Vec<u8>>, Failure>> = thread::scope(|scope| {
            let fetch = |start: u64| scope.spawn(move || self.part(client, start, (start + PART).min(size)));
            let threads: Vec<_> = starts.map(fetch).collect();
            let ended = |thread: thread::ScopedJoinHandle<_>| {
                thread.join().unwrap_or_else(|_| Err(Failure::Strange(format!("a part of {} failed", self.file))))
            };
            threads.into_iter().map(ended).collect()
        });
        let mut parts = parts.into_iter();
        while let Some(part) = parts.next() {
            let written = match part {
                Ok(Some(bytes)) => growing.add(&bytes).map_err(Failure::Here),
                Ok(None) => break,
                Err(failure) => Err(failure),
            };
            if let Err(failure) = written {
                // What came behind it comes again.
                let lost = parts.filter_map(|part| Some(part.ok()??.len() as u64)).sum();
                tell(|watch| watch.loses(lost));
                return Err(failure);
            }
        }
        Ok(growing.done > begin)
    }

    /// A part of it; None where the server sends another.
    fn part(&self, client: &Client, start: u64, end: u64) -> Result<Option<Vec<u8>>, Failure> {
        let answer = match client.get(&self.url, start, Some(end)) {
            Err(Failure::Refused(Refused::Other(416, _))) => return Ok(None),
            answer => answer?,
        };
        if !answer.is_part_from(start) {
            return Ok(None);
        }
        let (length, mut reader) = ((end - start) as usize, answer.into_reader());
        let (mut bytes, mut buffer) = (Vec::with_capacity(length), vec![0; CHUNK]);
        let mut read = || -> Result<(), Failure> {
            while bytes.len() < length {
                if is_interrupted() {
                    return Err(Failure::Interrupted);
                }
                let wanted = CHUNK.min(length - bytes.len());
                let count = reader.read(&mut buffer[..wanted]).map_err(|e| broken(&e))?;
                if count == 0 {
                    return Err(Failure::Passing { said: "the connection broke".into(), wait: None });
                }
                bytes.extend_from_slice(&buffer[..count]);
                tell(|watch| watch.receives(count as u64));
            }
            Ok(())
        };
        match read() {
            Ok(()) => Ok(Some(bytes)),
            Err(failure) => {
                tell(|watch| watch.loses(bytes.len() as u64));
                Err(failure)
            }
        }
    }

    /// What one answer brings.
    fn stream(&self, client: &Client, growing: &mut Growing) -> Result<(), Failure> {
        let answer = match client.get(&self.url, growing.done, None) {
            // Nothing is left to send of what is not as long as was said; the end tells.
            Err(Failure::Refused(Refused::Other(416, _))) => return Ok(()),
            answer => answer?,
        };
        // A server that does not know of ranges begins anew, and so must one that sends another.
        if growing.done > 0 && !answer.is_part_from(growing.done) {
            let lost = growing.done;
            growing.restart(self).map_err(Failure::Here)?;
            tell(|watch| watch.loses(lost));
            if answer.status() == 206 {
                return Err(Failure::Passing {
                    said: "the server sends another part than was asked for".into(),
                    wait: None,
                });
            }
        }
        let (mut reader, mut buffer) = (answer.into_reader(), vec![0; CHUNK]);
        loop {
            if is_interrupted() {
                return Err(Failure::Interrupted);
            }
            let count = reader.read(&mut buffer).map_err(|e| broken(&e))?;
            if count == 0 {
                break;
            }
            growing.add(&buffer[..count]).map_err(Failure::Here)?;
            tell(|watch| watch.receives(count as u64));
            if self.size.is_some_and(|size| growing.done > size) {
                return Ok(());
            }
        }
        match self.size {
            Some(size) if growing.done < size => {
                Err(Failure::Passing { said: "the connection broke".into(), wait: None })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_git_and_of_large_files() {
        for (etag, size, expected) in [
            ("ce013625030ba8dba906f756967f9e9ca394464a", Some(6), Some("ce013625030ba8dba906f756967f9e9ca394464a")),
            (
                "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
                None,
                Some("5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"),
            ),
            ("ce013625030ba8dba906f756967f9e9ca394464a", None, None),
            ("some-other-tag", Some(6), None),
        ] {
            let piece = Piece { file: "f".into(), etag: etag.into(), size, url: String::new() };
            let mut check = Check::of(&piece);
            check.update(b"hel");
            check.update(b"lo\n");
            assert_eq!(check.digest().as_deref(), expected);
        }
    }

    #[test]
    fn what_is_there_counts_unless_it_is_too_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.incomplete");
        fs::write(&path, "hello").unwrap();
        let piece = |size| Piece { file: "f".into(), etag: "e".into(), size: Some(size), url: String::new() };
        assert_eq!(Growing::open(&path, &piece(6)).unwrap().done, 5);
        assert_eq!(Growing::open(&path, &piece(4)).unwrap().done, 0);
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}
