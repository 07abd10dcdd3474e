use std::ptr::NonNull;
use std::slice;

use arrayvec::ArrayVec;

use crate::io::PacketBuf;

/// A frame in a DPDK mbuf, owned by one place at a time and given back to its pool when dropped.
///
/// A slice of these is laid out like C's array of mbuf pointers.
#[repr(transparent)]
#[derive(Debug)]
pub struct Mbuf(NonNull<dpdk_sys::rte_mbuf>);

// SAFETY: an mbuf belongs to whoever holds it; its pool takes it back from any thread.
unsafe impl Send for Mbuf {}

/// Pointer to a field; the offset is the one the C compiler sees.
macro_rules! field {
    ($mbuf:expr, $offset:ident: $type:ty) => {
        $mbuf.0.as_ptr().cast::<u8>().wrapping_add(dpdk_sys::$offset as usize).cast::<$type>()
    };
}

impl Mbuf {
    /// Gives up ownership: the caller must see that the mbuf is freed.
    #[inline]
    #[must_use]
    pub fn into_raw(self) -> *mut dpdk_sys::rte_mbuf {
        let raw = self.0.as_ptr();
        std::mem::forget(self);
        raw
    }

    /// Takes ownership of an mbuf.
    ///
    /// # Safety
    /// `raw` is a valid mbuf with at least one segment that nobody else uses or frees.
    #[inline]
    #[must_use]
    pub unsafe fn from_raw(raw: NonNull<dpdk_sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    #[inline]
    fn data_off(&self) -> u16 {
        // SAFETY: a field of an mbuf we own.
        unsafe { *field!(self, S2_OFF_DATA_OFF: u16) }
    }

    #[inline]
    fn data_len(&self) -> u16 {
        // SAFETY: a field of an mbuf we own.
        unsafe { *field!(self, S2_OFF_DATA_LEN: u16) }
    }

    #[inline]
    fn pkt_len(&self) -> u32 {
        // SAFETY: a field of an mbuf we own.
        unsafe { *field!(self, S2_OFF_PKT_LEN: u32) }
    }

    #[inline]
    fn data(&self) -> *mut u8 {
        // SAFETY: a field of an mbuf we own; data_off stays within the buffer.
        unsafe { (*field!(self, S2_OFF_BUF_ADDR: *mut u8)).add(usize::from(self.data_off())) }
    }

    #[inline]
    fn set(&mut self, data_off: u16, data_len: u16, pkt_len: u32) {
        // SAFETY: fields of an mbuf we own exclusively.
        unsafe {
            *field!(self, S2_OFF_DATA_OFF: u16) = data_off;
            *field!(self, S2_OFF_DATA_LEN: u16) = data_len;
            *field!(self, S2_OFF_PKT_LEN: u32) = pkt_len;
        }
    }

    /// Whether the driver took the VLAN tag off the frame.
    #[inline]
    pub(super) fn is_stripped(&self) -> bool {
        // SAFETY: a field of an mbuf we own.
        unsafe { *field!(self, S2_OFF_OL_FLAGS: u64) & dpdk_sys::S2_RX_VLAN_STRIPPED != 0 }
    }

    /// Puts the tag that the driver took off back behind the MAC addresses, as it was on the wire (IEEE 802.1Q). False when
    /// the frame has no room for it.
    #[cold]
    pub(super) fn restore_tag(&mut self) -> bool {
        const MACS: usize = 12;
        const TAG: usize = 4;
        if self.head().len() < MACS || !self.push(TAG) {
            return false;
        }
        // SAFETY: fields of an mbuf we own exclusively.
        let tci = unsafe {
            *field!(self, S2_OFF_OL_FLAGS: u64) &= !(dpdk_sys::S2_RX_VLAN | dpdk_sys::S2_RX_VLAN_STRIPPED);
            *field!(self, S2_OFF_VLAN_TCI: u16)
        };
        let head = self.head_mut();
        head.copy_within(TAG..TAG + MACS, 0);
        head[MACS..MACS + 2].copy_from_slice(&[0x81, 0x00]);
        head[MACS + 2..MACS + TAG].copy_from_slice(&tci.to_be_bytes());
        true
    }
}

impl Drop for Mbuf {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: we own it, and it is not used again.
        unsafe { dpdk_sys::s2_free(self.0.as_ptr()) };
    }
}

impl PacketBuf for Mbuf {
    #[inline]
    fn head(&self) -> &[u8] {
        // SAFETY: data_len bytes behind data_off are the segment's, initialised by the device or by whoever grew them.
        unsafe { slice::from_raw_parts(self.data(), usize::from(self.data_len())) }
    }

    #[inline]
    fn head_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in head, and the mbuf is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.data(), usize::from(self.data_len())) }
    }

    #[inline]
    fn frame_len(&self) -> usize {
        self.pkt_len() as usize
    }

    #[inline]
    fn pull(&mut self, n: usize) -> bool {
        let len = self.data_len();
        match u16::try_from(n) {
            Ok(n) if n <= len => {
                self.set(self.data_off() + n, len - n, self.pkt_len() - u32::from(n));
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn push(&mut self, n: usize) -> bool {
        let off = self.data_off();
        match u16::try_from(n) {
            Ok(n) if n <= off => {
                self.set(off - n, self.data_len() + n, self.pkt_len() + u32::from(n));
                true
            }
            _ => false,
        }
    }

    #[inline]
    fn resize(&mut self, n: usize) -> bool {
        // SAFETY: fields of an mbuf we own.
        let (segments, buf_len) =
            unsafe { (*field!(self, S2_OFF_NB_SEGS: u16), *field!(self, S2_OFF_BUF_LEN: u16)) };
        let off = self.data_off();
        match u16::try_from(n) {
            Ok(n) if segments == 1 && n <= buf_len - off => {
                self.set(off, n, u32::from(n));
                true
            }
            _ => false,
        }
    }

    fn read(&self, at: usize, to: &mut [u8]) -> bool {
        let (Ok(at), Ok(len)) = (u32::try_from(at), u32::try_from(to.len())) else { return false };
        // SAFETY: an mbuf we own with its chain, and `len` bytes to write to.
        unsafe { dpdk_sys::s2_read(self.0.as_ptr(), at, len, to.as_mut_ptr().cast()) }
    }

    #[inline]
    fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint; any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.data().cast::<i8>()) };
        }
    }
}

/// Lets C fill the free end of `frames`; `fill` gets the first free slot and their number. Returns how many it filled.
///
/// # Safety
/// `fill` writes at most that many valid mbufs, owned by nobody else, and returns how many.
#[inline]
pub(super) unsafe fn append<const N: usize>(
    frames: &mut ArrayVec<Mbuf, N>,
    fill: impl FnOnce(*mut *mut dpdk_sys::rte_mbuf, usize) -> usize,
) -> usize {
    let have = frames.len();
    // SAFETY: the slots from `have` on lie within the array, and Mbuf has the layout of a pointer. The length grows by what
    // the caller's promise says is filled.
    unsafe {
        let got = fill(frames.as_mut_ptr().add(have).cast(), N - have);
        debug_assert!(got <= N - have);
        frames.set_len(have + got);
        got
    }
}

/// Lets C take `frames` from the front; the rest moves to the front in order. Returns how many were taken.
///
/// # Safety
/// `take` gets the first frame and their number, takes over the ownership of as many of the first ones as it returns, and
/// leaves the others alone.
#[inline]
pub(super) unsafe fn take_front<const N: usize>(
    frames: &mut ArrayVec<Mbuf, N>,
    take: impl FnOnce(*mut *mut dpdk_sys::rte_mbuf, usize) -> usize,
) -> usize {
    let have = frames.len();
    if have == 0 {
        return 0;
    }
    // SAFETY: Mbuf has the layout of a pointer. The length is 0 while ownership is divided; then the tail is moved, not
    // copied, to the front.
    unsafe {
        frames.set_len(0);
        let first = frames.as_mut_ptr();
        let taken = take(first.cast(), have);
        debug_assert!(taken <= have);
        if taken != 0 && taken != have {
            std::ptr::copy(first.add(taken), first, have - taken);
        }
        frames.set_len(have - taken);
        taken
    }
}

/// Gives all frames back to their pools.
#[inline]
pub(super) fn free_all<const N: usize>(frames: &mut ArrayVec<Mbuf, N>) {
    // SAFETY: rte_pktmbuf_free_bulk takes over every mbuf it is given.
    unsafe {
        take_front(frames, |first, n| {
            dpdk_sys::rte_pktmbuf_free_bulk(first, u32::try_from(n).unwrap_or(0));
            n
        });
    }
}

/// What `Mbuf` must and must not be, checked by the compiler.
const _: () = {
    const fn is_send<T: Send>() {}
    is_send::<Mbuf>();
    assert!(size_of::<Mbuf>() == size_of::<*mut u8>());
    assert!(size_of::<Option<Mbuf>>() == size_of::<Mbuf>());

    // Ambiguous, and so an error, if Mbuf were Clone.
    trait NotClone<A> {
        const OK: bool = true;
    }
    impl<T> NotClone<()> for T {}
    impl<T: Clone> NotClone<u8> for T {}
    assert!(<Mbuf as NotClone<_>>::OK);
};

#[cfg(test)]
mod tests {
    use std::mem::ManuallyDrop;

    use super::*;

    /// An mbuf of no pool, with `headroom` bytes before the frame; never freed by DPDK.
    fn with_mbuf(headroom: usize, frame: &[u8], flags: u64, tci: u16, test: impl FnOnce(&mut Mbuf)) {
        let mut raw = [0u64; dpdk_sys::S2_SIZEOF_MBUF as usize / 8];
        let mut buffer = [vec![0; headroom], frame.to_vec()].concat();
        let mut mbuf = ManuallyDrop::new(Mbuf(NonNull::from(&mut raw).cast()));
        // SAFETY: the fields lie within `raw`, and the buffer outlives the test.
        unsafe {
            *field!(mbuf, S2_OFF_BUF_ADDR: *mut u8) = buffer.as_mut_ptr();
            *field!(mbuf, S2_OFF_BUF_LEN: u16) = buffer.len() as u16;
            *field!(mbuf, S2_OFF_NB_SEGS: u16) = 1;
            *field!(mbuf, S2_OFF_OL_FLAGS: u64) = flags;
            *field!(mbuf, S2_OFF_VLAN_TCI: u16) = tci;
        }
        mbuf.set(headroom as u16, frame.len() as u16, frame.len() as u32);
        test(&mut mbuf);
    }

    const STRIPPED: u64 = dpdk_sys::S2_RX_VLAN | dpdk_sys::S2_RX_VLAN_STRIPPED;

    #[test]
    fn a_tag_taken_off_by_the_driver_comes_back() {
        let frame: Vec<u8> = (0..60).collect();
        with_mbuf(128, &frame, STRIPPED, 0x6064, |mbuf| {
            assert!(mbuf.is_stripped());
            assert!(mbuf.restore_tag());
            assert_eq!(mbuf.head(), [&frame[..12], &[0x81, 0x00, 0x60, 0x64], &frame[12..]].concat());
            assert_eq!(mbuf.frame_len(), 64);
            assert!(!mbuf.is_stripped());
        });
        with_mbuf(128, &frame, 0, 0x6064, |mbuf| assert!(!mbuf.is_stripped()));
    }

    #[test]
    fn a_tag_without_room_is_not_forgotten() {
        with_mbuf(3, &[0; 60], STRIPPED, 1, |mbuf| assert!(!mbuf.restore_tag() && mbuf.is_stripped()));
        with_mbuf(128, &[0; 11], STRIPPED, 1, |mbuf| assert!(!mbuf.restore_tag() && mbuf.is_stripped()));
    }

    #[test]
    fn bytes_are_read_over_segments() {
        let bytes: Vec<u8> = (0..100).collect();
        with_mbuf(128, &bytes[..60], 0, 0, |first| {
            with_mbuf(0, &bytes[60..], 0, 0, |second| {
                first.set(128, 60, 100);
                // SAFETY: fields of our mbufs, which outlive what is read.
                unsafe {
                    *field!(first, S2_OFF_NB_SEGS: u16) = 2;
                    *field!(first, S2_OFF_NEXT: *mut dpdk_sys::rte_mbuf) = second.0.as_ptr();
                }
                for (at, len) in [(0, 60), (0, 100), (59, 2), (60, 40), (10, 80), (100, 0)] {
                    let mut to = vec![0xee; len];
                    assert!(first.read(at, &mut to), "{at} {len}");
                    assert_eq!(to, bytes[at..at + len]);
                }
                for (at, len) in [(0, 101), (100, 1), (101, 0), (usize::MAX, 2)] {
                    assert!(!first.read(at, &mut vec![0; len]), "{at} {len}");
                }
            });
        });
    }

    #[test]
    fn a_chain_of_segments_cannot_be_resized() {
        with_mbuf(128, &[0; 60], 0, 0, |mbuf| {
            assert!(mbuf.resize(10));
            // SAFETY: a field of our mbuf.
            unsafe { *field!(mbuf, S2_OFF_NB_SEGS: u16) = 2 };
            assert!(!mbuf.resize(5));
        });
    }
}
