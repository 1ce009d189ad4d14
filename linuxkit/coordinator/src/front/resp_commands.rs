//! What the commands of Redis are to a group: reads, writes, those of a connection that the front answers, and those that have no
//! meaning where each replica does the same. The lists follow Redis 7.2's own flags (`COMMAND`, `readonly`, `blocking`).

/// What to do with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Read,
    Write,
    /// Opens a transaction.
    Multi,
    /// Executes it.
    Exec,
    /// Forgets it.
    Discard,
    /// Ends the connection.
    Quit,
    /// Answered with `OK`, and nothing else: it asks for what is so anyway.
    Nothing,
    /// Answered with this error.
    Refused(&'static str),
}

/// Commands that change nothing. Those with random answers are among them: a read is answered by one replica alone.
const READS: &[&str] = &[
    "BITCOUNT",
    "BITFIELD_RO",
    "BITPOS",
    "COMMAND",
    "DBSIZE",
    "DUMP",
    "ECHO",
    "EVALSHA_RO",
    "EVAL_RO",
    "EXISTS",
    "EXPIRETIME",
    "FCALL_RO",
    "GEODIST",
    "GEOHASH",
    "GEOPOS",
    "GEORADIUSBYMEMBER_RO",
    "GEORADIUS_RO",
    "GEOSEARCH",
    "GET",
    "GETBIT",
    "GETRANGE",
    "HEXISTS",
    "HGET",
    "HGETALL",
    "HKEYS",
    "HLEN",
    "HMGET",
    "HRANDFIELD",
    "HSCAN",
    "HSTRLEN",
    "HVALS",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LCS",
    "LINDEX",
    "LLEN",
    "LOLWUT",
    "LPOS",
    "LRANGE",
    "MEMORY",
    "MGET",
    "OBJECT",
    "PEXPIRETIME",
    "PING",
    "PTTL",
    "RANDOMKEY",
    "SCAN",
    "SCARD",
    "SDIFF",
    "SINTER",
    "SINTERCARD",
    "SISMEMBER",
    "SLOWLOG",
    "SMEMBERS",
    "SMISMEMBER",
    "SORT_RO",
    "SRANDMEMBER",
    "SSCAN",
    "STRLEN",
    "SUBSTR",
    "SUNION",
    "TIME",
    "TOUCH",
    "TTL",
    "TYPE",
    "XINFO",
    "XLEN",
    "XPENDING",
    "XRANGE",
    "XREAD",
    "XREVRANGE",
    "ZCARD",
    "ZCOUNT",
    "ZDIFF",
    "ZINTER",
    "ZINTERCARD",
    "ZLEXCOUNT",
    "ZMSCORE",
    "ZRANDMEMBER",
    "ZRANGE",
    "ZRANGEBYLEX",
    "ZRANGEBYSCORE",
    "ZRANK",
    "ZREVRANGE",
    "ZREVRANGEBYLEX",
    "ZREVRANGEBYSCORE",
    "ZREVRANK",
    "ZSCAN",
    "ZSCORE",
    "ZUNION",
];

/// Commands that wait: all others of the group would wait behind them.
const BLOCKING: &[&str] = &[
    "BLMOVE",
    "BLMPOP",
    "BLPOP",
    "BRPOP",
    "BRPOPLPUSH",
    "BZMPOP",
    "BZPOPMAX",
    "BZPOPMIN",
    "WAIT",
    "WAITAOF",
];

/// Reads that each replica answers in its own way: by chance, by its clock, or by what it is itself. Alone they are answered by one
/// replica; in a transaction all of them execute them, and compare what they say.
const OWN: &[&str] = &[
    "EXPIRETIME",
    "HRANDFIELD",
    "INFO",
    "KEYS",
    "LASTSAVE",
    "LOLWUT",
    "MEMORY",
    "OBJECT",
    "PEXPIRETIME",
    "PTTL",
    "RANDOMKEY",
    "SCAN",
    "SLOWLOG",
    "SRANDMEMBER",
    "TIME",
    "TTL",
    "ZRANDMEMBER",
];

/// Commands about one connection or one server, which a group does not have.
const OF_CONNECTION: &[&str] = &[
    "ASKING",
    "AUTH",
    "CLIENT",
    "CLUSTER",
    "DEBUG",
    "FAILOVER",
    "MIGRATE",
    "MONITOR",
    "PSUBSCRIBE",
    "PSYNC",
    "PUNSUBSCRIBE",
    "READONLY",
    "READWRITE",
    "REPLCONF",
    "REPLICAOF",
    "RESET",
    "SHUTDOWN",
    "SLAVEOF",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "SYNC",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WATCH",
];

/// What a command is, by its words; the first is its name.
pub(super) fn class<'a>(mut words: impl Iterator<Item = &'a [u8]>) -> Class {
    let name = words.next().unwrap_or_default().to_ascii_uppercase();
    let name = std::str::from_utf8(&name).unwrap_or_default();
    match name {
        "MULTI" => Class::Multi,
        "EXEC" => Class::Exec,
        "DISCARD" => Class::Discard,
        "QUIT" => Class::Quit,
        "HELLO" => Class::Refused("NOPROTO a replicated group speaks RESP2"),
        "SELECT" if words.next() == Some(b"0") => Class::Nothing,
        "SELECT" => Class::Refused("ERR a replicated group has database 0 alone"),
        "XREAD" | "XREADGROUP" if words.any(|word| word.eq_ignore_ascii_case(b"BLOCK")) => {
            Class::Refused("ERR a replicated group does not wait: leave BLOCK out")
        }
        "SPOP" => Class::Refused(
            "ERR each replica would take another member by chance: use SRANDMEMBER, and SREM of what it gives",
        ),
        "XADD" if id_of_xadd(&mut words) == Some(b"*") => {
            Class::Refused("ERR each replica would take an id of its own clock: give the whole id")
        }
        "CONFIG" if words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"GET")) => Class::Read,
        _ if BLOCKING.contains(&name) => {
            Class::Refused("ERR a replicated group has no command that waits: use the one without")
        }
        _ if OF_CONNECTION.contains(&name) => Class::Refused(
            "ERR a replicated group has no state of a connection and no such command of one server",
        ),
        _ if READS.binary_search(&name).is_ok() => Class::Read,
        _ => Class::Write,
    }
}

/// The id of `XADD KEY [NOMKSTREAM] [MAXLEN|MINID [=|~] N [LIMIT N]] ID …`, by the words behind the command's name.
fn id_of_xadd<'a>(words: impl Iterator<Item = &'a [u8]>) -> Option<&'a [u8]> {
    let mut words = words.skip(1);
    loop {
        let word = words.next()?;
        match word.to_ascii_uppercase().as_slice() {
            b"NOMKSTREAM" | b"KEEPREF" | b"DELREF" | b"ACKED" => {}
            b"LIMIT" => drop(words.next()),
            b"MAXLEN" | b"MINID" => {
                if matches!(words.next(), Some(b"=" | b"~")) {
                    words.next();
                }
            }
            _ => return Some(word),
        }
    }
}

/// Whether a read, by its name, has a reply of each replica's own: it has no place in a transaction.
pub(super) fn is_own(name: &[u8]) -> bool {
    let name = name.to_ascii_uppercase();
    std::str::from_utf8(&name).is_ok_and(|name| OWN.binary_search(&name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::{BLOCKING, Class, OF_CONNECTION, OWN, READS, class, is_own};

    fn of(line: &str) -> Class {
        class(line.split(' ').map(str::as_bytes))
    }

    #[test]
    fn commands_are_what_redis_says() {
        assert!(READS.is_sorted() && BLOCKING.is_sorted() && OF_CONNECTION.is_sorted());
        assert!(OWN.is_sorted() && OWN.iter().all(|name| READS.binary_search(name).is_ok()));
        assert!(is_own(b"time") && is_own(b"SRANDMEMBER") && !is_own(b"GET"));
        assert_eq!(of("get a"), Class::Read);
        assert_eq!(of("CONFIG get save"), Class::Read);
        assert_eq!(of("XREAD STREAMS s 0"), Class::Read);
        for write in [
            "SET a b",
            "GETDEL a",
            "CONFIG SET save x",
            "PFCOUNT a",
            "GETEX a",
            "A.NEW.ONE",
            "XREADGROUP GROUP g c",
            "XADD s 7-1 a *",
            "XADD s MAXLEN = 5 LIMIT 3 7-* a b",
        ] {
            assert_eq!(of(write), Class::Write, "{write}");
        }
        assert_eq!(of("SELECT 0"), Class::Nothing);
        for refused in [
            "SELECT 1",
            "SELECT",
            "watch a",
            "BLPOP a 0",
            "XREAD BLOCK 0 STREAMS s 0",
            "HELLO 3",
            "CLIENT LIST",
            "SPOP s",
            "spop s 3",
            "XADD s * a b",
            "xadd s NOMKSTREAM MAXLEN ~ 100 * a b",
            "XADD s MINID 5 * a b",
        ] {
            assert!(matches!(of(refused), Class::Refused(_)), "{refused}");
        }
    }
}
