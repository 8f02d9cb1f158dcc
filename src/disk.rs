//! How much room a disk has.

use std::path::{Path, PathBuf};

/// A disk that a folder lies on, or will lie on when it is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disk {
    /// Bytes that this user may still write.
    pub free: u64,
    /// What tells it from others.
    id: u64,
}

impl Disk {
    /// Whether it is the same disk, however much of it is free by now.
    pub fn is(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// The disk of a folder; None where the system does not tell.
    pub fn of(folder: &Path) -> Option<Self> {
        let mut folder = std::path::absolute(folder).ok()?;
        // What is not there yet will be made below what is.
        while !folder.exists() {
            folder = PathBuf::from(folder.parent()?);
        }
        at(&folder)
    }
}

#[cfg(unix)]
fn at(folder: &Path) -> Option<Disk> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    // SAFETY: a struct of numbers, for which zeros are values.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path ends in a zero, and the pointer is to a place of the right type.
    let known = unsafe { libc::statvfs(path.as_ptr(), &mut found) } == 0;
    let id = folder.metadata().ok()?.dev();
    // Their types differ from system to system.
    #[allow(clippy::unnecessary_cast)]
    let free = (found.f_bavail as u64).saturating_mul(found.f_frsize as u64);
    known.then_some(Disk { free, id })
}

#[cfg(not(unix))]
fn at(_: &Path) -> Option<Disk> {
    None
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lies_on_the_disk_of_what_is_above_it() {
        let dir = tempfile::tempdir().unwrap();
        let here = Disk::of(dir.path()).unwrap();
        assert!(here.is(&Disk::of(&dir.path().join("not/yet/there")).unwrap()) && here.free > 0);
        if cfg!(target_os = "linux") {
            assert!(!here.is(&Disk::of(Path::new("/proc/self")).unwrap()));
        }
    }
}
