//! Our commands on DPDK's telemetry socket, for `dpdk-telemetry.py` and what reads it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use super::eal::Eal;
use super::error::{DpdkError, errno_text};

type Read = dyn Fn() -> Vec<(String, u64)> + Send + Sync;

/// Commands live as long as the process: DPDK cannot unregister them.
static COMMANDS: Mutex<Vec<(&'static str, &'static Read)>> = Mutex::new(Vec::new());

/// Makes `path` (such as `/scistream/stats`) answer with what `read` returns at that moment, called on EAL's telemetry thread.
///
/// DPDK takes up to 256 values of an answer and only letters, digits, `_` and `/` in their names; other characters become
/// `_`, and of a longer answer the first 255 values are given, then `not_shown` with the number of the others.
///
/// # Errors
/// The path is not a path, is too long (55 characters), or is registered already.
pub fn register(
    _eal: &Eal,
    path: &'static str,
    help: &str,
    read: impl Fn() -> Vec<(String, u64)> + Send + Sync + 'static,
) -> Result<(), DpdkError> {
    let error = |problem: String| DpdkError::Telemetry { path: path.to_owned(), problem };
    let (Ok(c_path), Ok(c_help)) = (CString::new(path), CString::new(help)) else {
        return Err(error("it contains a NUL byte".to_owned()));
    };
    let mut commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
    if commands.iter().any(|(known, _)| *known == path) {
        return Err(error("it is registered already".to_owned()));
    }
    // SAFETY: EAL runs and copies both strings; `answer` is a function and lives for ever.
    let err = unsafe { dpdk_sys::rte_telemetry_register_cmd(c_path.as_ptr(), Some(answer), c_help.as_ptr()) };
    if err < 0 {
        return Err(error(errno_text(err)));
    }
    commands.push((path, Box::leak(Box::new(read))));
    Ok(())
}

/// DPDK's callback of all our commands.
unsafe extern "C" fn answer(
    command: *const c_char,
    _: *const c_char,
    data: *mut dpdk_sys::rte_tel_data,
) -> c_int {
    // SAFETY: DPDK passes the command's path as a C string.
    let path = unsafe { CStr::from_ptr(command) };
    let values = catch_unwind(AssertUnwindSafe(|| {
        let commands = COMMANDS.lock().unwrap_or_else(PoisonError::into_inner);
        let read =
            commands.iter().find(|(known, _)| known.as_bytes() == path.to_bytes()).map(|(_, read)| *read);
        drop(commands);
        read.map(|read| fit(read(), dpdk_sys::S2_TEL_DICT_ENTRIES as usize))
    }));
    let Ok(Some(values)) = values else { return -libc::EIO };
    // SAFETY: `data` is DPDK's, empty, and lives through the call; the names are C strings that it copies.
    unsafe {
        dpdk_sys::rte_tel_data_start_dict(data);
        for (name, value) in values {
            let err = dpdk_sys::s2_tel_add_u64(data, name.as_ptr(), value);
            if err < 0 {
                return err;
            }
        }
    }
    0
}

/// Names and number of values as DPDK takes them.
fn fit(mut values: Vec<(String, u64)>, most: usize) -> Vec<(CString, u64)> {
    if values.len() > most {
        let hidden = values.len() - (most - 1);
        values.truncate(most - 1);
        values.push(("not_shown".to_owned(), hidden as u64));
    }
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '/' { c } else { '_' };
    values
        .into_iter()
        .map(|(name, value)| {
            (CString::new(name.chars().map(plain).collect::<String>()).unwrap_or_default(), value)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cut_to_what_dpdk_takes() {
        let values = (0..5).map(|i| (format!("flow-{i}.packets"), i)).collect::<Vec<_>>();
        let all = fit(values.clone(), 5);
        assert_eq!(all.len(), 5);
        assert_eq!(all[4], (c"flow_4_packets".to_owned(), 4));
        let cut = fit(values, 3);
        assert_eq!(cut.len(), 3);
        assert_eq!(cut[2], (c"not_shown".to_owned(), 3));
    }
}
