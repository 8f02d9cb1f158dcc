//! Large blocks of memory that were freed, and wait to be used again.
//!
//! glibc asks the system for every block of more than 32 MB anew and gives it back when it is freed, and what other threads
//! than the first have freed it gives back by and by; the system clears each page of it when it is touched again.
//! Activations are such blocks, that come and go by the hundred in a few sizes: up to a tenth of a pass went into that.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::UnsafeCell;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, Ordering};

/// Blocks smaller than this are left to the allocator.
const LARGE: usize = 1 << 20;

/// Bytes that wait at most.
const MOST: usize = 128 << 20;

/// Blocks that wait at most.
const COUNT: usize = 32;

/// The blocks that wait, those first that have waited longest.
pub struct Kept {
    busy: AtomicBool,
    blocks: UnsafeCell<[Block; COUNT]>,
}

/// A block; none where the address is null.
#[derive(Clone, Copy)]
struct Block {
    address: *mut u8,
    layout: Layout,
}

const NONE: Block = Block { address: null_mut(), layout: Layout::new::<u8>() };

// SAFETY: who has set `busy` has the blocks for itself.
unsafe impl Sync for Kept {}

impl Kept {
    pub const fn new() -> Self {
        Self { busy: AtomicBool::new(false), blocks: UnsafeCell::new([NONE; COUNT]) }
    }

    /// A block of just this layout; null where none waits. There may be anything in it.
    pub fn take(&self, layout: Layout) -> *mut u8 {
        if layout.size() < LARGE {
            return null_mut();
        }
        let mut taken = null_mut();
        self.with(|blocks| {
            if let Some(i) = blocks.iter().position(|b| !b.address.is_null() && b.layout == layout) {
                taken = blocks[i].address;
                blocks[i..].rotate_left(1);
                blocks[COUNT - 1] = NONE;
            }
        });
        taken
    }

    /// Whether the block, which nothing uses any more, waits from now on. Others that have waited longer make room for it.
    ///
    /// # Safety
    /// It is the system's, of this layout.
    pub unsafe fn keep(&self, address: *mut u8, layout: Layout) -> bool {
        if layout.size() < LARGE || layout.size() > MOST {
            return false;
        }
        self.with(|blocks| {
            let bytes = |blocks: &[Block]| {
                blocks.iter().filter(|b| !b.address.is_null()).map(|b| b.layout.size()).sum::<usize>()
            };
            while !blocks[COUNT - 1].address.is_null() || bytes(blocks) + layout.size() > MOST {
                // SAFETY: it waited here.
                unsafe { free_first(blocks) };
            }
            let free = blocks.iter().position(|b| b.address.is_null()).unwrap_or(COUNT - 1);
            blocks[free] = Block { address, layout };
        })
    }

    /// Gives all of them back to the system. Whether there were any.
    pub fn give_back(&self) -> bool {
        let mut any = false;
        self.with(|blocks| {
            while !blocks[0].address.is_null() {
                any = true;
                // SAFETY: it waited here.
                unsafe { free_first(blocks) };
            }
        });
        any
    }

    /// Whether `f` was called: not while another thread is at the blocks.
    fn with(&self, f: impl FnOnce(&mut [Block; COUNT])) -> bool {
        if self.busy.swap(true, Ordering::Acquire) {
            return false;
        }
        // SAFETY: nobody else is at them until `busy` is taken back.
        f(unsafe { &mut *self.blocks.get() });
        self.busy.store(false, Ordering::Release);
        true
    }
}

/// # Safety
/// The first of the blocks is one, and nothing uses it.
unsafe fn free_first(blocks: &mut [Block; COUNT]) {
    // SAFETY: the caller's.
    unsafe { System.dealloc(blocks[0].address, blocks[0].layout) };
    blocks.rotate_left(1);
    blocks[COUNT - 1] = NONE;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(layout: Layout) -> *mut u8 {
        // SAFETY: the layout is not of size 0.
        unsafe { System.alloc(layout) }
    }

    #[test]
    fn a_large_block_is_used_again_by_what_is_of_its_size() {
        let (kept, layout) = (Kept::new(), Layout::from_size_align(LARGE, 64).unwrap());
        let address = block(layout);
        // SAFETY: it is the system's, and of this layout.
        assert!(unsafe { kept.keep(address, layout) });
        assert!(kept.take(Layout::from_size_align(LARGE + 64, 64).unwrap()).is_null());
        assert_eq!(kept.take(layout), address);
        assert!(kept.take(layout).is_null());
        // SAFETY: as above.
        unsafe { System.dealloc(address, layout) };
        assert!(!kept.give_back());
    }

    #[test]
    fn no_more_waits_than_is_allowed() {
        let (kept, layout) = (Kept::new(), Layout::from_size_align(MOST / 3, 64).unwrap());
        let addresses = [0; 5].map(|_| block(layout));
        // SAFETY: they are the system's, and of this layout.
        assert!(addresses.iter().all(|&address| unsafe { kept.keep(address, layout) }));
        let small = Layout::from_size_align(LARGE - 64, 64).unwrap();
        let (address, huge) = (block(small), Layout::from_size_align(MOST + 64, 64).unwrap());
        // SAFETY: neither is kept.
        assert!(unsafe { !kept.keep(address, small) && !kept.keep(address, huge) });
        // SAFETY: it is the system's, and of this layout.
        unsafe { System.dealloc(address, small) };
        let waiting: Vec<*mut u8> = std::iter::from_fn(|| Some(kept.take(layout)).filter(|a| !a.is_null())).collect();
        assert_eq!(waiting, addresses[2..]);
        // SAFETY: as above.
        waiting.into_iter().for_each(|address| unsafe { System.dealloc(address, layout) });
    }
}
