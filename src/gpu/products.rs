//! Matrix products by cuBLAS: with f32 sums of bf16 factors, into a part of a matrix, many at once.

use std::ffi::c_int;

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::cudarc::cublas::{result, sys};
use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr};
use candle_core::cuda_backend::{CudaDType, WrapErr};
use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp2, Layout, Result, Shape, bail};
use half::{bf16, f16};

use super::kernels::view;
use super::views::{Call, View};

/// A factor: `count` matrices, `step` values from one to the next.
pub struct Matrix<'a, V> {
    pub values: &'a V,
    pub view: View,
    pub step: usize,
}

/// The same, where a result goes.
pub struct MatrixMut<'a, V> {
    pub values: &'a mut V,
    pub view: View,
    pub step: usize,
}

/// A type of values: what cuBLAS calls it, and what the kernels do (`STORED`).
pub trait Value: CudaDType + DeviceRepr {
    const KIND: sys::cudaDataType;
    const STORED: usize;
}

impl Value for f32 {
    const KIND: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;
    const STORED: usize = 0;
}

impl Value for bf16 {
    const KIND: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
    const STORED: usize = 1;
}

impl Value for f16 {
    const KIND: sys::cudaDataType = sys::cudaDataType::CUDA_R_16F;
    const STORED: usize = 2;
}

/// `$body` with the type of values that tensors of a precision have.
macro_rules! by_dtype {
    ($dtype:expr, $type:ident => $body:expr) => {
        match $dtype {
            candle_core::DType::F32 => {
                type $type = f32;
                $body
            }
            candle_core::DType::BF16 => {
                type $type = half::bf16;
                $body
            }
            candle_core::DType::F16 => {
                type $type = half::f16;
                $body
            }
            other => candle_core::bail!("{other:?} is no precision that models are held in"),
        }
    };
}
pub(crate) use by_dtype;

/// `c ← keep·c + scale·a·b` for `count` triples of matrices; sums in f32.
pub fn product<T: Value, C: Value>(
    device: &CudaDevice,
    c: MatrixMut<impl DevicePtrMut<C>>,
    (keep, scale): (f32, f32),
    a: Matrix<impl DevicePtr<T>>,
    b: Matrix<impl DevicePtr<T>>,
    count: usize,
) -> Result<()> {
    let call = Call::new(c.view, a.view, b.view);
    if call.m == 0 || call.n == 0 || count == 0 {
        return Ok(());
    }
    let fits = |len: usize, view: View, step: usize| (count - 1) * step + view.extent() <= len;
    assert!(fits(a.values.len(), a.view, a.step) && fits(b.values.len(), b.view, b.step), "a factor is too short");
    assert!(fits(c.values.len(), c.view, c.step), "the result does not fit");
    let int = |n: usize| match c_int::try_from(n) {
        Ok(n) => Ok(n),
        Err(_) => bail!("a product of {n} values a side"),
    };
    let operation = |is_transposed| match is_transposed {
        true => sys::cublasOperation_t::CUBLAS_OP_T,
        false => sys::cublasOperation_t::CUBLAS_OP_N,
    };
    let stream = device.cuda_stream();
    // cuBLAS takes the device of the calling thread.
    stream.context().bind_to_thread().w()?;
    let ((first, _first), (second, _second)) = (b.values.device_ptr(&stream), a.values.device_ptr(&stream));
    let (to, _to) = c.values.device_ptr_mut(&stream);
    let blas = device.cublas_handle();
    // SAFETY: the assertions above keep every value that is reached within its slice.
    unsafe {
        result::gemm_strided_batched_ex(
            *blas.handle(),
            operation(call.first_is_transposed),
            operation(call.second_is_transposed),
            int(call.m)?,
            int(call.n)?,
            int(call.k)?,
            (&raw const scale).cast(),
            first as *const _,
            T::KIND,
            int(call.leading[0])?,
            b.step as i64,
            second as *const _,
            T::KIND,
            int(call.leading[1])?,
            a.step as i64,
            (&raw const keep).cast(),
            to as *mut _,
            C::KIND,
            int(call.leading[2])?,
            c.step as i64,
            int(count)?,
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .w()
}

/// x·Wᵀ in f32, of x (tokens × inputs) and W (outputs × inputs) in whatever precision: candle would round it.
pub struct ProductInF32;

impl CustomOp2 for ProductInF32 {
    fn name(&self) -> &'static str {
        "product_in_f32"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        bail!("on the CPU products are in f32 anyway")
    }

    fn cuda_fwd(&self, x: &CudaStorage, xl: &Layout, w: &CudaStorage, wl: &Layout) -> Result<(CudaStorage, Shape)> {
        let ((tokens, inputs), (outputs, _)) = (xl.shape().dims2()?, wl.shape().dims2()?);
        // SAFETY: the product overwrites all of it.
        let mut y = unsafe { x.device.alloc::<f32>(tokens * outputs)? };
        by_dtype!(x.dtype(), T => {
            let (x_values, w_values) = (view::<T>(x, xl)?, view::<T>(w, wl)?);
            let to = MatrixMut { values: &mut y, view: View::new(tokens, outputs, outputs), step: 0 };
            let a = Matrix { values: &x_values, view: View::new(tokens, inputs, inputs), step: 0 };
            let b = Matrix { values: &w_values, view: View::new(outputs, inputs, inputs).t(), step: 0 };
            product::<T, f32>(&x.device, to, (0.0, 1.0), a, b, 1)?;
        });
        Ok((CudaStorage::wrap_cuda_slice(y, x.device.clone()), Shape::from((tokens, outputs))))
    }
}
