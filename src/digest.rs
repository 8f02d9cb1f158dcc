//! Content digests: what a result depends on, as 32 bytes of BLAKE3.

use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Serialize, Serializer};

/// A BLAKE3 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// Of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Of a value, through its JSON. Equal values of one type have equal digests.
    pub fn of(value: &impl Serialize) -> Self {
        Self::of_bytes(&serde_json::to_vec(value).expect("keys are plain data, which JSON can hold"))
    }

    /// Of a file's content.
    pub fn of_file(path: &Path) -> Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_mmap_rayon(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self(*hasher.finalize().as_bytes()))
    }

    /// Of several files: their names and contents, in this order.
    pub fn of_files<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let mut parts = Vec::new();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            parts.push((name, Self::of_file(path)?));
        }
        Ok(Self::of(&parts))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_blake3_in_hex() {
        // From the BLAKE3 paper's test vectors: the empty input.
        let empty = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of_bytes(b"").to_string(), empty);
    }
}
