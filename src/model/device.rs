//! Where to compute, as recipes spell it.

use anyhow::{Result, bail};
use candle_core::{Device, utils};

/// Checks a device name without touching the device: of what kind it is.
///
/// # Errors
/// Where the name is none, or calipr was built without that kind of device.
pub fn check(name: &str) -> Result<&str> {
    let (kind, number) = name.split_once(':').unwrap_or((name, "0"));
    let known = match kind {
        "auto" | "cpu" => !name.contains(':'),
        "cuda" | "metal" => number.parse::<usize>().is_ok(),
        _ => false,
    };
    if !known {
        bail!("\"{name}\" is no device; expected auto, cpu, cuda, cuda:N or metal");
    }
    let built = match kind {
        "cuda" => utils::cuda_is_available(),
        "metal" => utils::metal_is_available(),
        _ => true,
    };
    if !built {
        bail!("calipr was built without {kind}; build it with `cargo build --release --features {kind}`");
    }
    Ok(kind)
}

/// Opens a device. `auto` is the first GPU, where there is one that calipr was built for, else the CPU.
pub fn open(name: &str) -> Result<Device> {
    let kind = check(name)?;
    let number = name.split_once(':').map_or(0, |(_, number)| number.parse().unwrap_or(0));
    Ok(match kind {
        "cuda" => open_cuda(number)?,
        "metal" => Device::new_metal(number)?,
        "auto" if utils::cuda_is_available() => or_cpu(open_cuda(0)),
        "auto" if utils::metal_is_available() => or_cpu(Device::new_metal(0)),
        _ => Device::Cpu,
    })
}

/// A CUDA device with one stream for all threads: by default candle has one for each, which are not ordered.
fn open_cuda(number: usize) -> candle_core::Result<Device> {
    let device = Device::new_cuda_with_stream(number)?;
    #[cfg(feature = "cuda")]
    if let Device::Cuda(device) = &device {
        // SAFETY: nothing of this device is used on another stream, so there is nothing to wait for.
        unsafe { device.disable_event_tracking() };
        crate::gpu::memory::keep_reserved(device);
    }
    Ok(device)
}

fn or_cpu(gpu: candle_core::Result<Device>) -> Device {
    gpu.unwrap_or_else(|error| {
        tracing::warn!("no GPU can be used, so the CPU is: {error}");
        Device::Cpu
    })
}

/// Whether this is for want of a device's memory; nothing was computed then.
pub fn is_out_of_memory(error: &anyhow::Error) -> bool {
    // What candle passes on of CUDA, cuBLAS and Metal.
    let said = format!("{error:#}").to_lowercase();
    ["out of memory", "out_of_memory", "cublas_status_alloc_failed"].iter().any(|words| said.contains(words))
}

/// The most memory of the device in use at once since [`forget_peak`]; None where it is the host's, or does not tell.
pub fn peak_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::gpu::memory::peak_bytes(device),
        _ => None,
    }
}

/// Begins to look for the peak of a device's memory anew.
pub fn forget_peak(device: &Device) {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::gpu::memory::forget_peak(device),
        _ => {}
    }
}

/// Memory of the device that can still be taken; None where it is the host's, or does not tell.
pub fn available_bytes(device: &Device) -> Option<u64> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::gpu::memory::available_bytes(device),
        _ => None,
    }
}

/// A device keeps what all cells use where that takes no more than one in so many parts of its free memory.
const KEPT_SHARE: u64 = 4;

/// Whether a device has memory to keep so many bytes for all cells. What the host has it reads again.
pub fn has_room(device: &Device, bytes: u64) -> bool {
    available_bytes(device).is_some_and(|available| available / KEPT_SHARE >= bytes)
}

/// The kind of a device, which decides how its numbers round.
pub fn kind(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}

/// What a device calls itself; None of the host, or where it does not tell.
pub fn own_name(device: &Device) -> Option<String> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => crate::gpu::memory::own_name(device),
        _ => None,
    }
}

/// The name that results are recorded under.
pub fn name(device: &Device) -> String {
    match device.location() {
        candle_core::DeviceLocation::Cpu => "cpu".into(),
        candle_core::DeviceLocation::Cuda { gpu_id } => format!("cuda:{gpu_id}"),
        candle_core::DeviceLocation::Metal { gpu_id } => format!("metal:{gpu_id}"),
    }
}
