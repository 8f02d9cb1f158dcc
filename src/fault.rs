//! Who can mend what is wrong: whoever wrote the recipe or the data, or whoever keeps the machine.

use std::fmt;
use std::io::{self, ErrorKind};

use anyhow::{Error, Result};

/// A place in the command line, the recipe or the data, where what is wrong under it is to be mended.
#[derive(Debug)]
pub struct Fault(pub String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

/// Errors with the place where they are to be mended.
pub trait At<T> {
    /// Names the place. It is where to mend the error, unless the machine is at fault: then it is only where it struck.
    fn at(self, place: impl FnOnce() -> String) -> Result<T>;
}

impl<T> At<T> for Result<T> {
    fn at(self, place: impl FnOnce() -> String) -> Self {
        self.map_err(|error| match is_of_the_machine(&error) {
            true => error.context(place()),
            false => error.context(Fault(place())),
        })
    }
}

/// Whether the system refused something: a permission, room on a disk, memory.
pub fn is_of_the_machine(error: &Error) -> bool {
    let of_content = |e: &io::Error| {
        use ErrorKind::*;
        matches!(
            e.kind(),
            NotFound
                | IsADirectory
                | NotADirectory
                | InvalidData
                | InvalidInput
                | InvalidFilename
                | UnexpectedEof
                | Other
        )
    };
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|e| !of_content(e))
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn a_bad_row_is_the_datas_fault_and_a_refused_file_is_not() {
        let placed = |error: Error| Err::<(), _>(error).at(|| "the data set".into()).unwrap_err();
        let of_kind = |kind: ErrorKind| placed(Error::new(io::Error::from(kind)).context("row 3"));
        for error in [placed(anyhow!("no text")), of_kind(ErrorKind::InvalidData), of_kind(ErrorKind::UnexpectedEof)] {
            assert!(error.is::<Fault>(), "{error:#}");
        }
        for kind in [ErrorKind::PermissionDenied, ErrorKind::StorageFull, ErrorKind::OutOfMemory] {
            assert!(!of_kind(kind).is::<Fault>(), "{kind}");
        }
        assert_eq!(format!("{:#}", placed(anyhow!("no text"))), "the data set: no text");
    }
}
