//! Matrix products by cuBLAS: with f32 sums of bf16 factors, into a part of a matrix, many at once.

/// A row-major matrix in a device's memory, or the transpose of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// As it lies in memory.
    pub rows: usize,
    pub columns: usize,
    /// Values from one row to the next.
    pub stride: usize,
    /// Whether the transpose is meant.
    pub is_transposed: bool,
}

impl View {
    /// `rows × columns` with `stride` values from one row to the next.
    pub fn new(rows: usize, columns: usize, stride: usize) -> Self {
        Self { rows, columns, stride, is_transposed: false }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        Self { is_transposed: !self.is_transposed, ..self }
    }

    /// Rows and columns of what is meant.
    fn shape(self) -> (usize, usize) {
        if self.is_transposed { (self.columns, self.rows) } else { (self.rows, self.columns) }
    }

    /// Values from the first to the last.
    pub fn extent(self) -> usize {
        if self.rows == 0 || self.columns == 0 { 0 } else { (self.rows - 1) * self.stride + self.columns }
    }
}

/// C = A·B as BLAS takes it, which thinks in columns: of row-major matrices it sees the transposes, and Cᵀ = Bᵀ·Aᵀ, so
/// B is its first factor and A its second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub first_is_transposed: bool,
    pub second_is_transposed: bool,
    /// Leading dimensions of the first factor, the second, and the result.
    pub leading: [usize; 3],
}

impl Call {
    /// Of `a·b` into `c`.
    pub fn new(c: View, a: View, b: View) -> Self {
        let ((rows, inner), (same, columns)) = (a.shape(), b.shape());
        assert_eq!(inner, same, "inner dimensions differ");
        assert_eq!((c.rows, c.columns, c.is_transposed), (rows, columns, false), "the product has another shape");
        Self {
            m: columns,
            n: rows,
            k: inner,
            first_is_transposed: b.is_transposed,
            second_is_transposed: a.is_transposed,
            leading: [b.stride, a.stride, c.stride],
        }
    }
}

#[cfg(feature = "cuda")]
pub use cuda::{Matrix, MatrixMut, ProductInF32, Value, product};

#[cfg(feature = "cuda")]
mod cuda {
    use std::ffi::c_int;

    use candle_core::backend::BackendStorage;
    use candle_core::cuda_backend::cudarc::cublas::{result, sys};
    use candle_core::cuda_backend::cudarc::driver::{DevicePtr, DevicePtrMut, DeviceRepr};
    use candle_core::cuda_backend::{CudaDType, WrapErr};
    use candle_core::{CpuStorage, CudaDevice, CudaStorage, CustomOp2, DType, Layout, Result, Shape, bail};
    use half::{bf16, f16};

    use super::super::kernels::view;
    use super::{Call, View};

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

    /// What cuBLAS calls a type of values.
    pub trait Value: CudaDType + DeviceRepr {
        const KIND: sys::cudaDataType;
    }

    impl Value for f32 {
        const KIND: sys::cudaDataType = sys::cudaDataType::CUDA_R_32F;
    }

    impl Value for bf16 {
        const KIND: sys::cudaDataType = sys::cudaDataType::CUDA_R_16BF;
    }

    impl Value for f16 {
        const KIND: sys::cudaDataType = sys::cudaDataType::CUDA_R_16F;
    }

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
            let views = (
                View::new(tokens, outputs, outputs),
                View::new(tokens, inputs, inputs),
                View::new(outputs, inputs, inputs),
            );
            macro_rules! multiply {
                ($type:ty) => {{
                    let (x_values, w_values) = (view::<$type>(x, xl)?, view::<$type>(w, wl)?);
                    let to = MatrixMut { values: &mut y, view: views.0, step: 0 };
                    let (a, b) = (
                        Matrix { values: &x_values, view: views.1, step: 0 },
                        Matrix { values: &w_values, view: views.2.t(), step: 0 },
                    );
                    product::<$type, f32>(&x.device, to, (0.0, 1.0), a, b, 1)?
                }};
            }
            match x.dtype() {
                DType::F32 => multiply!(f32),
                DType::BF16 => multiply!(bf16),
                DType::F16 => multiply!(f16),
                other => bail!("products of {other:?}"),
            }
            Ok((CudaStorage::wrap_cuda_slice(y, x.device.clone()), Shape::from((tokens, outputs))))
        }
    }
}
