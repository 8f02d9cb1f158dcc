//! Where a model's numbers are: a GGUF file or safetensors, memory-mapped, read tensor by tensor.

mod gguf;
mod gguf_header;
mod safetensors;
mod scaled;

use anyhow::Result;
use candle_core::{DType, Tensor};

pub use gguf::GgufFile;
pub use safetensors::SafetensorsDir;

use super::spec::{LinearSpec, Name};
use crate::tensors;

/// Weights that are dequantised, or looked at, at once.
const WEIGHTS_AT_ONCE: usize = 1 << 20;

/// Lets go of the memory that the pages of a mapped file take, which was read and is not needed soon; read again, they
/// come from the system's cache of files, as long as it has room.
fn let_go(mapped: &[u8]) {
    #[cfg(unix)]
    {
        // SAFETY: asks for a number.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
        let (start, end) = (mapped.as_ptr() as usize, mapped.as_ptr() as usize + mapped.len());
        let (start, end) = (start.next_multiple_of(page), end / page * page);
        if start < end {
            // SAFETY: whole pages of a mapping of a file that is only read: they hold what the file holds, also after
            // they were dropped.
            unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
        }
    }
    #[cfg(not(unix))]
    let _ = mapped;
}

/// An error where a file is what Git keeps in place of a large one.
fn no_pointer(path: &std::path::Path) -> Result<()> {
    use std::io::Read;
    let mut start = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(40).read_to_end(&mut start));
    anyhow::ensure!(
        read.is_err() || !start.starts_with(b"version https://git-lfs"),
        "{} is a pointer of Git LFS, not the file itself; `git lfs pull` fetches that",
        path.display()
    );
    Ok(())
}

/// A tensor as a file has it.
pub struct StoredTensor<'a> {
    pub name: String,
    pub shape: Vec<usize>,
    pub form: Form<'a>,
}

/// How a tensor is stored.
pub enum Form<'a> {
    /// As numbers of a type that safetensors has, in this many bytes.
    Numbers(::safetensors::Dtype, &'a [u8]),
    /// In blocks of GGUF, whatever their type.
    Blocks,
}

/// A source of tensors.
pub trait Weights: Send + Sync {
    /// The tensor on the CPU, in the precision that it is stored in (f32 where it is quantised).
    ///
    /// # Errors
    /// Where the file lacks it, or it is damaged.
    fn tensor(&self, name: &Name) -> Result<Tensor>;

    /// The tensor on the CPU, rounded to `dtype`.
    ///
    /// # Errors
    /// As of [`Weights::tensor`].
    fn rounded(&self, name: &Name, dtype: DType) -> Result<Tensor> {
        Ok(tensors::to_dtype(&self.tensor(name)?, dtype)?)
    }

    /// Shows the tensor some rows at a time, as [`Weights::tensor`] has it, in any order and from several threads.
    ///
    /// # Errors
    /// As of [`Weights::tensor`], and those of `look`.
    fn pieces(&self, name: &Name, look: &(dyn Fn(&Tensor) -> Result<()> + Sync)) -> Result<()> {
        let tensor = self.tensor(name)?;
        let Some(rows) = tensor.dims().first().copied().filter(|_| tensor.is_contiguous()) else {
            return look(&tensor);
        };
        let at_once = (WEIGHTS_AT_ONCE / (tensor.elem_count() / rows.max(1)).max(1)).max(1);
        (0..rows).step_by(at_once).try_for_each(|start| look(&tensor.narrow(0, start, at_once.min(rows - start))?))
    }

    /// Part `index` of the `count` that a tensor's first dimension has: (count, rows, columns) → (rows, columns).
    ///
    /// # Errors
    /// As of [`Weights::tensor`].
    fn part(&self, name: &Name, index: usize, count: usize) -> Result<Tensor>;

    /// The weight or the bias of a linear, with its rows in Hugging Face's order.
    fn in_order(&self, tensor: Tensor, linear: &LinearSpec) -> Result<Tensor>;

    /// The tensor's shape, from the file's header.
    ///
    /// # Errors
    /// Where the file lacks it, or holds it in a form that is no weights.
    fn shape(&self, name: &Name) -> Result<Vec<usize>>;

    /// The format that the tensor is stored in, as the file calls it: `Q4_1`, `BF16`, `F8_E4M3`.
    ///
    /// # Errors
    /// Where the file lacks it.
    fn format(&self, name: &Name) -> Result<String>;

    /// Every tensor, in the order of the files.
    fn stored(&self) -> Result<Vec<StoredTensor<'_>>>;

    /// What the file calls a tensor.
    ///
    /// # Errors
    /// Where the file lacks it.
    fn own_name_of(&self, name: &Name) -> Result<String>;

    /// What the file has beyond the tensors of these names that a model might be meant to have, as the file calls it.
    fn left_over(&self, names: &[Name]) -> Vec<String>;
}
