//! Compiling and launching kernels.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use candle_core::cuda_backend::cudarc::driver::sys::CUdeviceptr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaSlice, CudaStream, CudaView, DeviceRepr, LaunchArgs, LaunchConfig,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CudaDevice, CudaStorage, Layout, Result, bail};

/// Threads of a block of every kernel, `THREADS` in their text.
pub const THREADS: usize = 256;
/// Threads that run in step.
pub const WARP: usize = 32;

/// Blocks of threads that go through values together, each taking many; enough for any device.
pub const BLOCKS: usize = 4096;

/// No pointer, where a kernel takes one that may be missing.
pub const NONE: CUdeviceptr = 0;

/// A kernel that is ready to launch.
pub struct Kernel {
    function: CudaFunction,
    stream: Arc<CudaStream>,
}

impl Kernel {
    /// A launch, without its arguments yet.
    pub fn builder(&self) -> LaunchArgs<'_> {
        self.stream.launch_builder(&self.function)
    }
}

/// A kernel, compiled with constants in place of those in the text.
pub fn kernel(device: &CudaDevice, name: &str, constants: &[(&str, usize)]) -> Result<Kernel> {
    static COMPILED: LazyLock<Mutex<HashMap<String, String>>> = LazyLock::new(Mutex::default);
    let (major, minor) = device.cuda_stream().context().compute_capability().w()?;
    let mut options = vec![format!("--gpu-architecture=compute_{major}{minor}")];
    options.extend(constants.iter().map(|(name, value)| format!("-D{name}={value}")));
    let module = options.join(" ");
    let mut compiled = COMPILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if !compiled.contains_key(&module) {
        // No fused multiply-adds: sums come out as on the CPU.
        let options = CompileOptions { options, fmad: Some(false), ..CompileOptions::default() };
        let ptx = match compile_ptx_with_opts(super::KERNELS, options) {
            Ok(ptx) => ptx,
            Err(error) => bail!("the kernels cannot be compiled for this device: {error:?}"),
        };
        compiled.insert(module.clone(), ptx.to_src());
    }
    let function = device.get_or_load_custom_func(name, &format!("calipr {module}"), &compiled[&module])?;
    Ok(Kernel { function: function.into_cuda_function(), stream: device.cuda_stream() })
}

/// A grid of blocks.
pub fn grid(x: usize, y: usize) -> Result<LaunchConfig> {
    let Ok(x) = u32::try_from(x) else { bail!("a grid of {x} blocks") };
    if y > 65_535 {
        bail!("a grid of {y} rows of blocks");
    }
    Ok(LaunchConfig { grid_dim: (x, y as u32, 1), block_dim: (THREADS as u32, 1, 1), shared_mem_bytes: 0 })
}

/// A number of things as the kernels count them.
pub fn count(n: usize) -> Result<u32> {
    match u32::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => bail!("{n} are more than a kernel counts"),
    }
}

/// The values of a contiguous tensor.
pub fn view<'a, T: CudaDType + DeviceRepr>(storage: &'a CudaStorage, layout: &Layout) -> Result<CudaView<'a, T>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(storage.as_cuda_slice::<T>()?.slice(start..end)),
        None => bail!("expected a contiguous tensor"),
    }
}

/// A copy of the values of a contiguous tensor.
pub fn copied(storage: &CudaStorage, layout: &Layout) -> Result<CudaSlice<f32>> {
    let values = view::<f32>(storage, layout)?;
    // SAFETY: all of it is overwritten.
    let mut copy = unsafe { storage.device.alloc::<f32>(layout.shape().elem_count())? };
    storage.device.memcpy_dtod(&values, &mut copy)?;
    Ok(copy)
}
