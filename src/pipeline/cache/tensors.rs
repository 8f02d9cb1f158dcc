//! Entries of tensors: a header in JSON with what there is to say of them, then their values one after the other.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use candle_core::{DType, Device, Tensor};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{Cache, Key};
use crate::tensors;

#[derive(Serialize, Deserialize)]
struct Header<T> {
    about: T,
    tensors: Vec<Form>,
}

#[derive(Serialize, Deserialize)]
struct Form {
    dtype: String,
    shape: Vec<usize>,
}

impl Cache {
    /// Writes tensors, and what there is to say of them.
    ///
    /// # Errors
    /// [`super::Unwritable`], and why.
    pub fn write_tensors(&self, key: Key, about: &impl Serialize, tensors: &[Tensor]) -> Result<()> {
        let form = |t: &Tensor| Form { dtype: t.dtype().as_str().into(), shape: t.dims().to_vec() };
        let header = Header { about, tensors: tensors.iter().map(form).collect() };
        let header = serde_json::to_vec(&header)?;
        self.write(key, |out| {
            out.write_all(&(header.len() as u64).to_le_bytes())?;
            out.write_all(&header)?;
            tensors.iter().try_for_each(|tensor| tensors::write_bytes(tensor, out))
        })
    }

    /// Reads what [`Cache::write_tensors`] wrote, onto the host.
    pub fn read_tensors<T: DeserializeOwned>(&self, key: Key) -> Option<(T, Vec<Tensor>)> {
        let entry = self.read(key)?;
        parse(&entry).inspect_err(|e| tracing::warn!("the cache entry {} is of no use: {e:#}", key.digest())).ok()
    }
}

fn parse<T: DeserializeOwned>(entry: &[u8]) -> Result<(T, Vec<Tensor>)> {
    let (length, rest) = entry.split_first_chunk().context("it has no header")?;
    let (header, mut rest) =
        rest.split_at_checked(u64::from_le_bytes(*length) as usize).context("its header is cut")?;
    let header: Header<T> = serde_json::from_slice(header)?;
    let mut tensors = Vec::with_capacity(header.tensors.len());
    for Form { dtype, shape } in header.tensors {
        let dtype: DType = dtype.parse()?;
        let bytes = shape.iter().try_fold(dtype.size_in_bytes(), |n, &d| n.checked_mul(d));
        let (values, after) = rest.split_at_checked(bytes.context("a tensor's size")?).context("a tensor is cut")?;
        tensors.push(Tensor::from_raw_buffer(values, dtype, &shape, &Device::Cpu)?);
        rest = after;
    }
    ensure!(rest.is_empty(), "bytes follow the last tensor");
    Ok((header.about, tensors))
}

#[cfg(test)]
mod tests {
    use super::super::Stage;
    use super::*;

    #[test]
    fn tensors_come_back_in_their_precision_and_shape() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::in_dir(dir.path());
        let key = Stage::Walk.key(&0);
        let values = Tensor::new(&[[1f32, -0.0, 3.5], [f32::MIN_POSITIVE, 5.0, -6.0]], &Device::Cpu).unwrap();
        let given = [
            values.clone(),
            values.to_dtype(DType::BF16).unwrap(),
            values.to_dtype(DType::F16).unwrap(),
            Tensor::new(&[7u8, 8, 9], &Device::Cpu).unwrap(),
            values.t().unwrap(),
        ];
        cache.write_tensors(key, &"about", &given).unwrap();
        let (about, read): (String, Vec<Tensor>) = cache.read_tensors(key).unwrap();
        assert_eq!((about.as_str(), read.len()), ("about", given.len()));
        for (read, given) in read.iter().zip(&given) {
            assert_eq!((read.dtype(), read.dims()), (given.dtype(), given.dims()));
            let bits = |t: &Tensor| tensors::values(t).unwrap().into_iter().map(f32::to_bits).collect::<Vec<_>>();
            assert_eq!(bits(read), bits(given));
        }
        assert!(cache.read_tensors::<Vec<u32>>(key).is_none(), "what is said of them is a text");
    }
}
