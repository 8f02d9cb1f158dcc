//! How much of a device's memory is used, by the pool that candle takes all of it from.

use std::ffi::{CStr, c_void};

use candle_core::CudaDevice;
use candle_core::cuda_backend::cudarc::driver::sys::{self, CUmemPool_attribute, CUmemoryPool};

fn pool(device: &CudaDevice) -> Option<CUmemoryPool> {
    let mut pool = std::ptr::null_mut();
    // SAFETY: writes a handle; a driver without pools says so.
    let status = unsafe { sys::cuDeviceGetDefaultMemPool(&mut pool, device.cuda_stream().context().cu_device()) };
    (status == sys::CUresult::CUDA_SUCCESS).then_some(pool)
}

fn read(device: &CudaDevice, attribute: CUmemPool_attribute) -> Option<u64> {
    let mut bytes = 0u64;
    // SAFETY: these attributes are 64-bit numbers.
    let status = unsafe { sys::cuMemPoolGetAttribute(pool(device)?, attribute, (&raw mut bytes).cast::<c_void>()) };
    (status == sys::CUresult::CUDA_SUCCESS).then_some(bytes)
}

/// What the device calls itself, such as `NVIDIA H200`.
pub fn own_name(device: &CudaDevice) -> Option<String> {
    let mut name = [0u8; 256];
    let (start, length) = (name.as_mut_ptr().cast(), name.len() as i32);
    // SAFETY: writes at most so many bytes, the last of them 0.
    let status = unsafe { sys::cuDeviceGetName(start, length, device.cuda_stream().context().cu_device()) };
    let told = (status == sys::CUresult::CUDA_SUCCESS).then(|| CStr::from_bytes_until_nul(&name).ok()).flatten();
    told.map(|name| name.to_string_lossy().into_owned())
}

/// The most bytes in use at once since [`forget_peak`], or since the start.
pub fn peak_bytes(device: &CudaDevice) -> Option<u64> {
    read(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH)
}

/// Sets an attribute, where the driver lets it be set; nothing depends on that but speed and what is recorded.
fn set(device: &CudaDevice, attribute: CUmemPool_attribute, mut value: u64) {
    let Some(pool) = pool(device) else { return };
    // SAFETY: these attributes are 64-bit numbers.
    let _ = unsafe { sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut value).cast::<c_void>()) };
}

/// Begins to look for the peak anew.
pub fn forget_peak(device: &CudaDevice) {
    set(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH, 0);
}

/// Has the pool keep the memory that it once took, which by default it gives back whenever the host waits for the device.
pub fn keep_reserved(device: &CudaDevice) {
    set(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD, u64::MAX);
}

/// Bytes that can still be taken: what is free, and what the pool holds without using it.
pub fn available_bytes(device: &CudaDevice) -> Option<u64> {
    let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
    let reserved = read(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)?;
    let used = read(device, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)?;
    Some(free as u64 + reserved.saturating_sub(used))
}
