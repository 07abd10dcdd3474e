//! The WAN element.
