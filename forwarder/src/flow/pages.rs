//! Fixed arrays on pages of their own: large ones, which spare the processor most address translations, when the kernel has them.
#![forbid(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use bytemuck::Pod;
use memmap2::{Advice, MmapMut};

/// A zeroed array of fixed length.
#[derive(Debug)]
pub(super) struct Pages<T> {
    map: MmapMut,
    len: usize,
    of: PhantomData<T>,
}

/// Size of a large page (x86-64, and AArch64 with small pages of 4 KiB): a smaller array gains nothing from one.
const LARGE: usize = 2 << 20;

impl<T: Pod> Pages<T> {
    /// `len` elements, all zero. The memory is the process's at once, but taken from the system when first touched, or by
    /// [`Pages::populate`].
    ///
    /// # Errors
    /// The system does not give it.
    pub(super) fn new(len: usize) -> io::Result<Self> {
        let map = MmapMut::map_anon((len * size_of::<T>()).max(1))?;
        if map.len() >= LARGE {
            // Advice: a kernel without transparent hugepages goes on with small ones.
            let _ = map.advise(Advice::HugePage);
        }
        Ok(Self { map, len, of: PhantomData })
    }

    /// Takes the memory from the system now, near the processor that calls, so that no packet waits for it.
    pub(super) fn populate(&self) {
        // Advice: kernels before 5.14 take the memory when it is first touched.
        let _ = self.map.advise(Advice::PopulateWrite);
    }
}

impl<T: Pod> Deref for Pages<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.len * size_of::<T>()])
    }
}

impl<T: Pod> DerefMut for Pages<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.len * size_of::<T>()])
    }
}
