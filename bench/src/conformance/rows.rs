//! The table: what is required, where that stands, and which tests show it.

/// How a row is meant when its tests hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Plan {
    /// As it is written.
    Holds,
    /// As it is written, with a remark on what it means here.
    HoldsAs(&'static str),
    /// Otherwise on purpose, for this reason; the tests show what is done instead.
    Exception(&'static str),
    /// It speaks of nothing that exists here.
    NotApplicable(&'static str),
}

/// One requirement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Document and number.
    pub(super) id: &'static str,
    /// Section that it stands in.
    pub(super) section: &'static str,
    /// The requirement in our own words.
    pub(super) requirement: &'static str,
    /// Names of tests.
    pub(super) tests: &'static [&'static str],
    pub(super) plan: Plan,
}

/// Rows under one heading.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) title: &'static str,
    pub(super) rows: &'static [Row],
}

use Plan::{Exception, Holds, HoldsAs, NotApplicable};

const fn row(
    id: &'static str,
    section: &'static str,
    requirement: &'static str,
    tests: &'static [&'static str],
    plan: Plan,
) -> Row {
    Row { id, section, requirement, tests, plan }
}

const BY_FLOW: &str = "The internal endpoint is the flow's target, its external one the listen address.";
const DEFAULT_DENY: &str = "Default deny: who is not admitted learns nothing, not even that somebody is \
    here. The refusal \
    is counted by name, and `s2ctl explain` tells it to the operator.";
const NO_ALG: &str = "There is no ALG, and nothing to turn on.";
const HAIRPIN: &str = "By policy: a flow with `hairpin = true` serves clients at every port of the \
    gateway. Without it, the \
    default, a packet for another port's address is dropped in silence.";

/// All of them.
pub(super) const GROUPS: &[Group] = &[
    Group { title: "UDP: RFC 4787", rows: RFC4787 },
    Group { title: "TCP: RFC 5382", rows: RFC5382 },
    Group { title: "ICMP: RFC 5508", rows: RFC5508 },
    Group { title: "Updates: RFC 7857", rows: RFC7857 },
    Group { title: "TCP: RFC 5961, RFC 6691, RFC 9293", rows: TRANSPORT },
    Group { title: "Ports, checksums, identification: RFC 6056, RFC 1624, RFC 6864", rows: HEADERS },
    Group { title: "Path MTU and own errors: RFC 1812, RFC 1191, RFC 8201, RFC 4884", rows: PATH_MTU },
    Group { title: "IPv6: RFC 8200, RFC 4443", rows: IPV6 },
    Group { title: "Neighbors: RFC 826, RFC 5227, RFC 4861", rows: NEIGHBORS },
    Group { title: "IPv4 to IPv6 and back: RFC 7915", rows: TRANSLATION },
    Group { title: "VLANs: IEEE 802.1Q", rows: VLAN },
];

const RFC4787: &[Row] = &[
    row(
        "RFC 4787 REQ-1",
        "4.1",
        "An internal endpoint has one external endpoint, whoever it speaks with.",
        &[
            "udp::two_clients_reach_one_target_by_one_listen_address",
            "udp::replies_come_from_the_listen_address",
        ],
        HoldsAs(BY_FLOW),
    ),
    row(
        "RFC 4787 REQ-1, client's side",
        "4.1",
        "The same asked of a client, whose address the target does not see.",
        &["udp::source_port_is_one_connections_own", "udp::strangers_do_not_reach_a_client"],
        Exception(
            "A source port belongs to one connection towards one target. Clients open connections and are \
                not to be \
             reached from elsewhere; a mapping that outlived its connection would let third parties in.",
        ),
    ),
    row(
        "RFC 4787 REQ-2",
        "4.1",
        "With several external addresses, one internal host keeps to one of them.",
        &["udp::a_client_keeps_its_source_address"],
        HoldsAs(
            "The source address follows from the client's address. Only when all its ports towards a \
                target are in use is another one taken.",
        ),
    ),
    row(
        "RFC 4787 REQ-3",
        "4.2.1",
        "No two internal endpoints share an external endpoint.",
        &["udp::a_listen_address_belongs_to_one_flow", "udp::no_two_connections_share_source_and_target"],
        HoldsAs("A listen address belongs to one flow; no two connections have the same source and target."),
    ),
    row(
        "RFC 4787 REQ-3, across targets",
        "4.2.1",
        "The same for connections towards different targets.",
        &["udp::source_port_is_one_connections_own"],
        Exception(
            "Towards different targets a source port may be used by several connections at once, as RFC \
                7857 section 3 \
             allows: a packet belongs to one of them by its whole 5-tuple, and replies to no other.",
        ),
    ),
    row(
        "RFC 4787 REQ-3a",
        "4.2.1",
        "Well-known ports map to well-known ports, others to others.",
        &["udp::well_known_listen_ports_stay"],
        HoldsAs("The operator chooses each listen port, from either range, and it stays."),
    ),
    row(
        "RFC 4787 REQ-3a, client's side",
        "4.2.1",
        "The same asked of source ports.",
        &["udp::source_ports_are_of_the_configured_range"],
        Exception(
            "Source ports are always of the configured range, by default 32768-65535: a client with a \
                well-known port \
             does not get one of the gateway's.",
        ),
    ),
    row(
        "RFC 4787 REQ-4",
        "4.2.2",
        "Even ports map to even ones, odd ports to odd ones.",
        &["udp::parity_is_not_kept"],
        Exception(
            "It serves RTP applications that guess the RTCP port; unpredictable source ports (RFC 6056) \
                are worth more \
             here. Listen ports are the operator's choice, parity included.",
        ),
    ),
    row(
        "RFC 4787 REQ-5",
        "4.3",
        "A mapping that rests lives two minutes or more.",
        &["udp::the_default_timer_is_five_minutes", "timers::udp_is_refreshed_by_either_side"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-5a",
        "4.3",
        "Well-known destination ports may have shorter timers.",
        &["udp::the_default_timer_is_five_minutes"],
        HoldsAs("There is one timer, and no shorter one for any port."),
    ),
    row(
        "RFC 4787 REQ-5b",
        "4.3",
        "The timer may be configurable.",
        &["timers::udp_is_refreshed_by_either_side"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-5c",
        "4.3",
        "The timer's default is five minutes or more.",
        &["udp::the_default_timer_is_five_minutes"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-6",
        "4.3",
        "Packets from inside refresh the mapping.",
        &["timers::udp_is_refreshed_by_either_side"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-6a",
        "4.3",
        "Packets from outside may refresh it.",
        &["timers::udp_is_refreshed_by_either_side"],
        HoldsAs("They do, within a connection that was admitted."),
    ),
    row(
        "RFC 4787 REQ-7",
        "4.4",
        "A NAT with a dynamic external address copes with an internal network of the same numbers.",
        &["udp::overlapping_networks_are_refused"],
        NotApplicable(
            "Addresses are configured, none is dynamic. Ports whose networks overlap are refused at load.",
        ),
    ),
    row(
        "RFC 4787 REQ-8",
        "5",
        "Packets from outside are filtered by address where that matters more than transparency.",
        &["udp::strangers_do_not_reach_a_client", "udp::clients_that_are_not_allowed_are_not_heard"],
        HoldsAs("By address and port towards clients; towards targets by the flow's allowed sources."),
    ),
    row(
        "RFC 4787 REQ-8a",
        "5",
        "The filtering may be configurable.",
        &["udp::clients_that_are_not_allowed_are_not_heard"],
        HoldsAs("Each flow's `from`."),
    ),
    row(
        "RFC 4787 REQ-9",
        "6",
        "Internal hosts reach each other by external endpoints.",
        &["udp::hairpin_by_policy", "udp::hairpin_is_silent_by_default"],
        HoldsAs(HAIRPIN),
    ),
    row(
        "RFC 4787 REQ-9a",
        "6",
        "What hairpins comes from an external address and port.",
        &["udp::hairpin_by_policy"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-10",
        "7",
        "ALGs for protocols over UDP are off.",
        &["udp::payloads_are_not_touched"],
        HoldsAs(NO_ALG),
    ),
    row(
        "RFC 4787 REQ-10a",
        "7",
        "Each ALG can be turned on and off by itself.",
        &["udp::payloads_are_not_touched"],
        NotApplicable(NO_ALG),
    ),
    row(
        "RFC 4787 REQ-11",
        "8",
        "Translation and filtering do not change with time or load.",
        &["udp::mappings_do_not_change_under_load"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-12",
        "9",
        "No ICMP message ends a mapping.",
        &["icmp::errors_do_not_end_connections"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-12a",
        "9",
        "ICMP messages are not filtered by their source address.",
        &["icmp::errors_come_from_any_router"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-12b",
        "9",
        "Destination Unreachable is supported.",
        &[
            "icmp::errors_from_the_targets_side_are_translated",
            "icmp::errors_from_the_clients_side_are_translated",
        ],
        Holds,
    ),
    row(
        "RFC 4787 REQ-13",
        "10",
        "A packet with DF that is too big for the way out is answered with Fragmentation Needed.",
        &["icmp::too_big_comes_from_the_relay"],
        Holds,
    ),
    row(
        "RFC 4787 REQ-13a",
        "10",
        "Without DF it is fragmented, and the fragments leave in order.",
        &[
            "fragments::without_df_what_is_too_big_is_fragmented",
            "fragments::fragments_that_are_too_big_are_fragmented_again",
        ],
        Holds,
    ),
    row(
        "RFC 4787 REQ-14",
        "11",
        "Fragments are taken in any order.",
        &[
            "fragments::fragments_in_order_pass",
            "fragments::fragments_out_of_order_pass",
            "fragments::a_fragmented_first_packet_opens_a_connection",
        ],
        HoldsAs(
            "Fragments follow their first one without being reassembled; those that come before it wait, \
                bounded in number and time.",
        ),
    ),
    row(
        "RFC 4787 REQ-14a",
        "11",
        "A flood of fragments does not keep fragments in order and whole packets from passing.",
        &[
            "fragments::a_flood_of_fragments_costs_only_itself",
            "fragments::fragments_without_a_first_one_go_nowhere",
            "fragments::overlapping_fragments_are_dropped",
            "fragments::tiny_first_fragments_are_dropped",
            "fragments::fragments_of_strangers_are_dropped",
        ],
        Holds,
    ),
];

const RFC5382: &[Row] = &[
    row(
        "RFC 5382 REQ-1",
        "4.1",
        "An internal endpoint has one external endpoint, whoever it speaks with.",
        &[
            "tcp::two_clients_reach_one_target_by_one_listen_address",
            "tcp::replies_come_from_the_listen_address",
        ],
        HoldsAs(BY_FLOW),
    ),
    row(
        "RFC 5382 REQ-1, client's side",
        "4.1",
        "The same asked of a client.",
        &["udp::source_port_is_one_connections_own", "tcp::strangers_do_not_reach_a_client"],
        Exception("As for UDP: a source port belongs to one connection towards one target."),
    ),
    row(
        "RFC 5382 REQ-2",
        "4.2",
        "Every valid sequence of segments passes.",
        &[
            "tcp::handshake_data_and_close",
            "tcp::simultaneous_close",
            "tcp::a_half_closed_connection_goes_on",
            "tcp::a_syn_is_sent_again",
        ],
        Holds,
    ),
    row("RFC 5382 REQ-2a", "4.2", "So does a simultaneous open.", &["tcp::simultaneous_open"], Holds),
    row(
        "RFC 5382 REQ-3",
        "4.3",
        "Segments from outside are filtered by address where that matters more than transparency.",
        &["tcp::strangers_do_not_reach_a_client", "udp::clients_that_are_not_allowed_are_not_heard"],
        HoldsAs("By address and port towards clients; towards targets by the flow's allowed sources."),
    ),
    row(
        "RFC 5382 REQ-3a",
        "4.3",
        "The filtering may be configurable.",
        &["udp::clients_that_are_not_allowed_are_not_heard"],
        HoldsAs("Each flow's `from`."),
    ),
    row(
        "RFC 5382 REQ-3b",
        "4.3",
        "It may differ from that of UDP.",
        &["udp::clients_that_are_not_allowed_are_not_heard"],
        HoldsAs("A flow has one protocol, and `from` is the flow's."),
    ),
    row(
        "RFC 5382 REQ-4",
        "4.3",
        "An unsolicited SYN is not answered for six seconds; afterwards by Port Unreachable, unless \
            policy forbids.",
        &["timers::an_unsolicited_syn_is_never_answered", "tcp::segments_of_no_connection_are_dropped"],
        HoldsAs("Never answered, by REQ-4a."),
    ),
    row(
        "RFC 5382 REQ-4a",
        "4.3",
        "Where an answer violates policy, the SYN is dropped in silence.",
        &["timers::an_unsolicited_syn_is_never_answered"],
        Holds,
    ),
    row(
        "RFC 5382 REQ-5",
        "5",
        "An established connection that rests lives 2 h 4 min or more, an opening or closing one 4 min.",
        &[
            "tcp::the_default_timers_are_those_of_the_rfc",
            "timers::tcp_has_two_timers",
            "timers::a_close_leaves_the_transitory_timer",
        ],
        Holds,
    ),
    row(
        "RFC 5382 REQ-5a",
        "5",
        "The timers may be configurable.",
        &["tcp::the_default_timers_are_those_of_the_rfc", "timers::tcp_has_two_timers"],
        HoldsAs("A shorter one than the RFC allows is remarked at load."),
    ),
    row(
        "RFC 5382 REQ-6",
        "6",
        "ALGs for protocols over TCP are off.",
        &["udp::payloads_are_not_touched"],
        HoldsAs(NO_ALG),
    ),
    row(
        "RFC 5382 REQ-6a",
        "6",
        "Each ALG can be turned on and off by itself.",
        &["udp::payloads_are_not_touched"],
        NotApplicable(NO_ALG),
    ),
    row(
        "RFC 5382 REQ-7",
        "7.1",
        "No two internal endpoints share an external endpoint.",
        &["udp::no_two_connections_share_source_and_target", "udp::a_listen_address_belongs_to_one_flow"],
        HoldsAs("As RFC 4787 REQ-3, with the same exception towards different targets."),
    ),
    row(
        "RFC 5382 REQ-8",
        "7.2",
        "Internal hosts reach each other by external endpoints.",
        &["udp::hairpin_by_policy", "udp::hairpin_is_silent_by_default"],
        HoldsAs(HAIRPIN),
    ),
    row(
        "RFC 5382 REQ-8a",
        "7.2",
        "What hairpins comes from an external address and port.",
        &["udp::hairpin_by_policy"],
        Holds,
    ),
    row(
        "RFC 5382 REQ-9",
        "7.3",
        "Destination Unreachable about TCP is translated.",
        &[
            "icmp::errors_from_the_targets_side_are_translated",
            "icmp::errors_from_the_clients_side_are_translated",
        ],
        Holds,
    ),
    row(
        "RFC 5382 REQ-10",
        "7.4",
        "No ICMP message ends a mapping or a connection.",
        &["icmp::errors_do_not_end_connections"],
        Holds,
    ),
];

const RFC5508: &[Row] = &[
    row(
        "RFC 5508 REQ-1",
        "3.1",
        "Queries from inside, and the answers to them, pass unless policy forbids.",
        &["icmp::queries_are_not_relayed", "icmp::the_relay_answers_echo_requests"],
        Exception(
            "Default deny: a flow admits TCP or UDP, and nothing else is relayed. Who may send to the \
                gateway can ping it, \
             not what is behind it.",
        ),
    ),
    row(
        "RFC 5508 REQ-1a",
        "3.1",
        "A query's external id does not depend on the host that is asked.",
        &["icmp::queries_are_not_relayed"],
        NotApplicable("Queries are not relayed (REQ-1)."),
    ),
    row(
        "RFC 5508 REQ-2",
        "3.2",
        "A query's session lives 60 seconds or more.",
        &["icmp::queries_are_not_relayed"],
        Exception("Queries are not relayed (REQ-1), so no session begins."),
    ),
    row(
        "RFC 5508 REQ-2a",
        "3.2",
        "That timer is configurable.",
        &["icmp::queries_are_not_relayed"],
        NotApplicable("Queries are not relayed (REQ-1)."),
    ),
    row(
        "RFC 5508 REQ-3",
        "4.1",
        "An error whose ICMP checksum is wrong is dropped.",
        &["icmp::a_bad_icmp_checksum_is_dropped"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-3a",
        "4.1",
        "So is one that quotes a wrong IP header checksum.",
        &["icmp::a_bad_inner_header_checksum_is_dropped"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-3b",
        "4.1",
        "IP options of the quoted packet are skipped.",
        &["icmp::inner_options_are_skipped"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-3c",
        "4.1",
        "The quoted packet's transport checksum is not verified.",
        &["icmp::the_inner_transport_checksum_is_not_verified"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-3d",
        "4.1",
        "Extensions and padding do not count as part of the quoted packet.",
        &["icmp::extensions_are_kept"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-4",
        "4.2.1",
        "An error from outside about no mapping is dropped in silence.",
        &["icmp::errors_about_nothing_are_dropped", "icmp::errors_about_icmp_are_dropped"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-4a",
        "4.2.1",
        "Otherwise the quoted packet is put back as its sender made it.",
        &["icmp::errors_from_the_targets_side_are_translated", "icmp::short_and_long_quotes"],
        Holds,
    ),
    row("RFC 5508 REQ-4b", "4.2.1", "Type and code stay.", &["icmp::every_code_is_kept"], Holds),
    row(
        "RFC 5508 REQ-4c",
        "4.2.1",
        "The error goes to the quoted packet's sender.",
        &["icmp::errors_from_the_targets_side_are_translated"],
        HoldsAs(
            "Its source becomes the listen address, as REQ-5c asks of the other direction: routers of one \
                side are foreign to the other.",
        ),
    ),
    row(
        "RFC 5508 REQ-5",
        "4.2.2",
        "An error from inside about no mapping is dropped in silence.",
        &["icmp::errors_about_nothing_are_dropped"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-5a",
        "4.2.2",
        "Otherwise the quoted packet is put back as its sender made it.",
        &["icmp::errors_from_the_clients_side_are_translated"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-5b",
        "4.2.2",
        "Type and code stay.",
        &["icmp::errors_from_the_clients_side_are_translated"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-5c",
        "4.2.2",
        "The error's source becomes the NAT's own address.",
        &["icmp::errors_from_the_clients_side_are_translated", "icmp::errors_come_from_any_router"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-6",
        "4.3",
        "An error neither refreshes nor deletes a mapping.",
        &["timers::errors_do_not_refresh", "icmp::errors_do_not_end_connections"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-7",
        "5",
        "Errors about hairpinned packets pass.",
        &["icmp::hairpinned_errors_are_translated"],
        HoldsAs("Where a flow has `hairpin = true`. Queries do not, as they pass nowhere (REQ-1)."),
    ),
    row(
        "RFC 5508 REQ-7a",
        "5",
        "They go to the sender of the packet that they quote.",
        &["icmp::hairpinned_errors_are_translated"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-8",
        "6",
        "Who cannot be admitted is told by Communication Administratively Prohibited.",
        &["icmp::a_refused_client_is_not_answered", "udp::a_full_flow_is_silent"],
        Exception(DEFAULT_DENY),
    ),
    row(
        "RFC 5508 REQ-9",
        "7",
        "Policy may keep ICMP messages from being sent towards an interface.",
        &["icmp::own_errors_are_about_connections_only"],
        HoldsAs(
            "One policy for all ports: errors go to those whose packet a flow lets through, to nobody else.",
        ),
    ),
    row(
        "RFC 5508 REQ-10a",
        "7",
        "Destination Unreachable, Time Exceeded and echo are supported.",
        &[
            "icmp::every_code_is_kept",
            "icmp::time_exceeded_comes_from_the_relay",
            "icmp::the_relay_answers_echo_requests",
        ],
        HoldsAs("Echo for the gateway itself (REQ-1)."),
    ),
    row(
        "RFC 5508 REQ-10b to d",
        "7",
        "Redirect, timestamp and others may be supported; Source Quench should not be.",
        &["icmp::unwanted_messages_are_dropped"],
        HoldsAs("None of them is; Parameter Problem about a connection is translated."),
    ),
    row(
        "RFC 5508 REQ-10e and f",
        "7",
        "Router and information messages are no concern of a NAT.",
        &["icmp::unwanted_messages_are_dropped"],
        Holds,
    ),
    row(
        "RFC 5508 REQ-11",
        "8",
        "Messages that are neither query nor error may be dropped.",
        &["icmp::unwanted_messages_are_dropped"],
        HoldsAs("They are, and are counted as `icmp_other`."),
    ),
];

const RFC7857: &[Row] = &[
    row(
        "RFC 7857 TCP session tracking",
        "2",
        "Connections are followed by the state machine of RFC 6146.",
        &[
            "tcp::simultaneous_open",
            "timers::tcp_has_two_timers",
            "timers::a_forged_reset_does_not_end_a_connection",
        ],
        Holds,
    ),
    row(
        "RFC 7857 transitory timers",
        "2.1",
        "Opening and closing connections have timers of their own settings, 4 minutes by default.",
        &["tcp::the_default_timers_are_those_of_the_rfc", "timers::a_close_leaves_the_transitory_timer"],
        Exception("One setting, `tcp_transitory`, is for both. Its default is 4 minutes."),
    ),
    row(
        "RFC 7857 TCP RST",
        "2.2",
        "A reset is passed on and its connection kept for 4 minutes.",
        &["tcp::a_reset_is_relayed_and_kills_nothing", "timers::a_reset_leaves_the_transitory_timer"],
        Holds,
    ),
    row(
        "RFC 7857 port overlapping",
        "3",
        "Connections towards different destinations may have the same external port.",
        &["udp::source_port_is_one_connections_own"],
        Holds,
    ),
    row(
        "RFC 7857 pooling",
        "4",
        "A host's external address is the same for all its protocols.",
        &["udp::a_client_keeps_its_source_address"],
        Holds,
    ),
    row(
        "RFC 7857 mapping across protocols",
        "5 and 6",
        "Mapping and filtering of one protocol do not depend on another's.",
        &["udp::a_client_keeps_its_source_address", "udp::an_unsolicited_packet_creates_nothing"],
        HoldsAs("A flow has one protocol; so has a connection."),
    ),
    row(
        "RFC 7857 refresh by strangers",
        "7",
        "Packets that are filtered refresh nothing.",
        &["udp::strangers_do_not_reach_a_client", "udp::an_unsolicited_packet_creates_nothing"],
        HoldsAs("A stranger's packet belongs to no connection."),
    ),
    row(
        "RFC 7857 error packets",
        "8",
        "Errors sent in answer to packets from outside do not refresh.",
        &["timers::errors_do_not_refresh", "timers::a_reset_leaves_the_transitory_timer"],
        Holds,
    ),
    row("RFC 7857 port parity", "9", "Parity need not be kept.", &["udp::parity_is_not_kept"], Holds),
    row(
        "RFC 7857 port randomization",
        "10",
        "External ports are chosen as RFC 6056 tells.",
        &["udp::source_ports_are_not_predictable"],
        Holds,
    ),
    row(
        "RFC 7857 identification",
        "11",
        "The identification field is treated as RFC 6864 tells.",
        &["fragments::fragments_get_ids_of_their_own", "udp::ids_of_whole_packets_stay"],
        Holds,
    ),
    row(
        "RFC 7857 query timeout",
        "12",
        "A query's mapping may go with its last session.",
        &["icmp::queries_are_not_relayed"],
        NotApplicable("Queries are not relayed (RFC 5508 REQ-1)."),
    ),
    row(
        "RFC 7857 hairpinning",
        "13",
        "Every NAT, not only Basic NAT, lets hairpinned queries pass.",
        &["icmp::queries_are_not_relayed", "icmp::hairpinned_errors_are_translated"],
        Exception(
            "Queries are not relayed (RFC 5508 REQ-1). Errors about what hairpins are, where a flow has \
                `hairpin = true`.",
        ),
    ),
];

const TRANSPORT: &[Row] = &[
    row(
        "RFC 5961 resets",
        "3",
        "A reset with a wrong number ends nothing, and what the ends say about it passes.",
        &[
            "tcp::a_reset_is_relayed_and_kills_nothing",
            "tcp::a_challenge_ack_passes_after_a_reset",
            "timers::a_forged_reset_does_not_end_a_connection",
        ],
        Holds,
    ),
    row(
        "RFC 5961 SYN in a connection",
        "4",
        "A SYN within a connection ends nothing; its answer passes.",
        &["tcp::a_challenge_ack_passes_after_a_reset"],
        Holds,
    ),
    row(
        "RFC 6691 MSS",
        "2",
        "An MSS is never raised, and lowered only to what packets of the way can hold without options.",
        &["tcp::mss_is_clamped_on_syn_only", "tcp::mss_follows_the_mtu", "tcp::without_a_clamp_mss_passes"],
        HoldsAs("By a flow's `mss_clamp`; without it the option passes as it came."),
    ),
    row(
        "RFC 9293 options",
        "3.1 and 3.2",
        "Options, known or not, pass in their order.",
        &["tcp::options_pass_as_they_came"],
        Holds,
    ),
    row(
        "RFC 9293 reuse",
        "3.6.1",
        "A closed connection may be opened anew by a higher sequence number.",
        &["tcp::a_port_is_used_again_after_a_close"],
        Holds,
    ),
];

const HEADERS: &[Row] = &[
    row(
        "RFC 6056 source ports",
        "3.3",
        "Source ports cannot be guessed.",
        &["udp::source_ports_are_not_predictable", "udp::source_ports_are_of_the_configured_range"],
        Holds,
    ),
    row(
        "RFC 1624 checksums",
        "3",
        "Checksums are updated by what changed, so that right ones stay right.",
        &["udp::checksums_are_updated"],
        Holds,
    ),
    row(
        "RFC 1624 errors",
        "5",
        "An error made before the relay still shows behind it.",
        &["udp::a_wrong_checksum_stays_wrong"],
        Holds,
    ),
    row(
        "RFC 768 no checksum",
        "Fields",
        "A UDP checksum of zero stays zero over IPv4.",
        &["udp::no_checksum_stays_none"],
        Holds,
    ),
    row(
        "RFC 768 computed zero",
        "Fields",
        "A UDP checksum that comes out as zero leaves as all ones.",
        &["udp::a_computed_zero_goes_out_as_ones"],
        Holds,
    ),
    row(
        "RFC 6864 atomic datagrams",
        "4.1",
        "The id of a packet that is whole means nothing, and may stay.",
        &["udp::ids_of_whole_packets_stay"],
        Holds,
    ),
    row(
        "RFC 6864 fragments",
        "5.3.1",
        "Fragments of different packets leave one address with different ids.",
        &["fragments::fragments_get_ids_of_their_own"],
        Holds,
    ),
    row("RFC 2474 and RFC 3168 marks", "3 and 5", "DSCP and ECN pass.", &["udp::header_fields_pass"], Holds),
];

const PATH_MTU: &[Row] = &[
    row(
        "RFC 1812 TTL",
        "5.3.1",
        "Each packet's TTL is counted down by one; one that ran out is answered with Time Exceeded.",
        &["udp::header_fields_pass", "icmp::time_exceeded_comes_from_the_relay"],
        Holds,
    ),
    row(
        "RFC 1812 quotes",
        "4.3.2.3",
        "An error quotes as much as fits into 576 bytes.",
        &["icmp::time_exceeded_comes_from_the_relay", "icmp::short_and_long_quotes"],
        Holds,
    ),
    row(
        "RFC 1812 about errors",
        "4.3.2.7",
        "There is no error about an error.",
        &["icmp::no_errors_about_errors"],
        Holds,
    ),
    row(
        "RFC 1812 rate",
        "4.3.2.8",
        "Own errors are limited in rate.",
        &["icmp::own_errors_are_limited"],
        Holds,
    ),
    row(
        "RFC 1191 relay as router",
        "4",
        "Fragmentation Needed tells the MTU of the way out.",
        &["icmp::too_big_comes_from_the_relay"],
        Holds,
    ),
    row(
        "RFC 1191 messages of others",
        "4",
        "Fragmentation Needed of routers beyond reaches the sender, with its MTU.",
        &["icmp::path_mtu_messages_are_translated"],
        Holds,
    ),
    row(
        "RFC 8201 Packet Too Big",
        "4",
        "The same for IPv6, from the relay and from routers beyond.",
        &["icmp::too_big_comes_from_the_relay", "icmp::path_mtu_messages_are_translated"],
        Holds,
    ),
    row(
        "RFC 4884 extensions",
        "4, 5, 7",
        "Extensions of an error and the length field that tells where they begin are kept.",
        &["icmp::extensions_are_kept"],
        Holds,
    ),
];

const IPV6: &[Row] = &[
    row(
        "RFC 8200 extension headers",
        "4",
        "Packets with hop-by-hop and destination options pass as they came.",
        &["fragments::extension_headers_pass"],
        Holds,
    ),
    row(
        "RFC 8200 bounds",
        "4.1",
        "What has more extension headers than any sender needs costs no more than a drop.",
        &["fragments::endless_extension_headers_are_dropped"],
        HoldsAs("RFC 8504 section 5.3 allows a limit."),
    ),
    row(
        "RFC 5095 routing headers",
        "3",
        "A routing header does not send a packet on.",
        &["fragments::routing_headers_are_dropped"],
        Holds,
    ),
    row(
        "RFC 8200 fragments",
        "4.5",
        "Fragments pass; overlapping ones are dropped.",
        &[
            "fragments::fragments_in_order_pass",
            "fragments::fragments_out_of_order_pass",
            "fragments::overlapping_fragments_are_dropped",
        ],
        Holds,
    ),
    row(
        "RFC 6946 atomic fragments",
        "4",
        "A fragment that is a whole packet depends on no other.",
        &["fragments::atomic_fragments_pass"],
        Holds,
    ),
    row(
        "RFC 8200 UDP checksum",
        "8.1",
        "A UDP packet without a checksum is dropped.",
        &["udp::no_checksum_stays_none"],
        Holds,
    ),
    row(
        "RFC 8200 fields",
        "3, 6, 7",
        "Traffic class and flow label pass, the hop limit is counted down.",
        &["udp::header_fields_pass"],
        Holds,
    ),
    row(
        "RFC 4443 Packet Too Big",
        "3.2",
        "It is sent where the way out is too narrow, and tells its MTU.",
        &["icmp::too_big_comes_from_the_relay"],
        Holds,
    ),
    row(
        "RFC 4443 Time Exceeded",
        "3.3",
        "It is sent where the hop limit ran out.",
        &["icmp::time_exceeded_comes_from_the_relay"],
        Holds,
    ),
    row(
        "RFC 4443 processing",
        "2.4",
        "Errors quote what fits into 1280 bytes, are limited in rate, and are never about errors.",
        &[
            "icmp::time_exceeded_comes_from_the_relay",
            "icmp::own_errors_are_limited",
            "icmp::no_errors_about_errors",
        ],
        Holds,
    ),
    row(
        "RFC 4443 echo",
        "4.2",
        "Echo requests to the gateway are answered with their data.",
        &["icmp::the_relay_answers_echo_requests"],
        Holds,
    ),
];

const NEIGHBORS: &[Row] = &[
    row(
        "RFC 826 requests",
        "Packet Reception",
        "Requests for own addresses are answered, malformed ones are not.",
        &["link::arp_requests_are_answered", "link::malformed_arp_is_dropped"],
        Holds,
    ),
    row(
        "RFC 1027 proxy ARP",
        "2",
        "The relay answers for nobody else.",
        &["link::arp_is_answered_for_own_addresses_only"],
        Holds,
    ),
    row(
        "RFC 826 resolution",
        "Packet Generation",
        "Next hops are asked for; packets wait for the answer in their order.",
        &["link::next_hops_are_asked_for", "link::packets_wait_for_their_next_hop_in_order"],
        Holds,
    ),
    row(
        "RFC 1122 ARP cache",
        "2.3.2.1 and 2.3.2.2",
        "A stale entry is probed and corrected, a silent next hop given up; nothing waits without bound.",
        &[
            "timers::a_next_hop_in_use_is_probed",
            "timers::a_silent_next_hop_is_given_up",
            "link::a_next_hop_that_moves_is_followed",
        ],
        Holds,
    ),
    row(
        "RFC 5227 probes",
        "2.1.1",
        "An address that another station has is not used.",
        &["link::a_taken_address_refuses_the_start", "link::own_addresses_are_probed_and_announced"],
        HoldsAs(
            "The relay does not start, and names the other's MAC address. How long it probes is \
                `[addresses] check`.",
        ),
    ),
    row(
        "RFC 5227 announcements",
        "2.3",
        "Addresses are announced once they are free.",
        &["link::own_addresses_are_probed_and_announced"],
        Holds,
    ),
    row(
        "RFC 5227 conflicts",
        "2.4",
        "A later claim of another station is defended once within its interval, and counted.",
        &["link::an_address_conflict_is_counted_and_defended"],
        Holds,
    ),
    row(
        "RFC 4861 solicitations",
        "7.2.3 and 7.2.4",
        "Solicitations for own addresses are answered, for others they are not.",
        &["link::solicitations_are_answered", "link::solicitations_are_answered_for_own_addresses_only"],
        Holds,
    ),
    row(
        "RFC 4861 resolution",
        "7.2.2",
        "Next hops are asked for at their solicited-node group, with the source link-layer address.",
        &["link::next_hops_are_asked_for", "link::packets_wait_for_their_next_hop_in_order"],
        Holds,
    ),
    row(
        "RFC 4861 unsolicited advertisements",
        "7.2.5 and 7.2.6",
        "One that overrides changes the link-layer address; own addresses are announced.",
        &["link::a_next_hop_that_moves_is_followed", "link::own_addresses_are_probed_and_announced"],
        Holds,
    ),
    row(
        "RFC 4861 unreachability",
        "7.3",
        "A next hop in use is probed; one that is silent is given up.",
        &["timers::a_next_hop_in_use_is_probed", "timers::a_silent_next_hop_is_given_up"],
        Holds,
    ),
    row(
        "RFC 4861 validation",
        "7.1",
        "Messages from beyond the link and malformed ones are dropped.",
        &["link::forged_neighbor_discovery_is_dropped"],
        Holds,
    ),
    row(
        "RFC 4862 address detection",
        "5.4",
        "An IPv6 address that another station has is not used, and own ones are defended.",
        &["link::a_taken_address_refuses_the_start", "link::solicitations_are_answered"],
        Holds,
    ),
];

const TRANSLATION: &[Row] = &[
    row(
        "RFC 7915 packets",
        "4.1 and 5.1",
        "TCP and UDP pass between the families, with right checksums.",
        &["v6v4::clients_of_either_family_reach_targets_of_the_other", "v6v4::tcp_options_pass"],
        HoldsAs("Addresses are those of flow and connection, not made from each other."),
    ),
    row(
        "RFC 7915 header fields",
        "4.1 and 5.1",
        "Traffic class passes, TTL is counted down, DF says whether the packet may be fragmented.",
        &["v6v4::header_fields_are_translated", "v6v4::options_are_left_behind"],
        Holds,
    ),
    row(
        "RFC 7915 fragments",
        "4.1 and 5.1.1",
        "Fragments pass as fragments.",
        &["v6v4::fragments_are_translated"],
        Holds,
    ),
    row(
        "RFC 7915 UDP checksum",
        "4.5",
        "A UDP packet without a checksum gets one or is dropped.",
        &["v6v4::udp_without_a_checksum_gets_one"],
        Holds,
    ),
    row(
        "RFC 7915 MTU",
        "4 and 5",
        "What is too big after translation is fragmented, or told with an MTU in the sender's family.",
        &["v6v4::without_df_what_is_too_big_is_fragmented", "v6v4::with_df_what_is_too_big_is_told"],
        Holds,
    ),
    row(
        "RFC 7915 errors",
        "4.2, 4.3, 5.2, 5.3",
        "Errors and what they quote become those of the other family, or are dropped where there is none.",
        &["v6v4::errors_are_translated", "v6v4::errors_about_nothing_are_dropped"],
        Holds,
    ),
    row(
        "RFC 7915 MTU of errors",
        "4.2 and 5.2",
        "The MTU in an error is changed by the difference of the headers.",
        &["v6v4::mtus_are_translated"],
        Holds,
    ),
    row(
        "RFC 7915 own errors",
        "4.4 and 5.4",
        "Errors of the relay itself are of the sender's family.",
        &["v6v4::time_exceeded_comes_from_the_relay", "v6v4::with_df_what_is_too_big_is_told"],
        Holds,
    ),
];

const VLAN: &[Row] = &[
    row(
        "IEEE 802.1Q VLANs",
        "6.9",
        "Each VLAN is a link of its own; frames of others do not pass.",
        &["vlan::each_vlan_is_a_port_of_its_own", "vlan::frames_of_other_vlans_are_dropped"],
        Holds,
    ),
    row(
        "IEEE 802.1Q priority",
        "6.9.3",
        "Priority and drop eligibility of a tag are kept.",
        &["vlan::priority_bits_are_kept", "vlan::a_priority_tag_at_an_untagged_port"],
        HoldsAs("Where a frame leaves untagged they end with its tag."),
    ),
    row(
        "IEEE 802.1Q service tags",
        "9.5",
        "Customer VLANs within a service VLAN (802.1ad) are links, too.",
        &["vlan::service_tags_are_carried", "vlan::service_tags_have_to_match"],
        Holds,
    ),
];
