//! Connections that are kept and say nothing, and single questions.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::Target;
use crate::answer::{Answer, Parsed, parse};

/// How many connections come from one address, of the 28,000 ports it has by default.
const OF_ONE_ADDRESS: usize = 5_000;

/// How many may stay without an answer until no more are opened.
const PATIENCE: usize = 10;

/// Connections that were answered once and are kept.
pub struct Herd {
    streams: Vec<TcpStream>,
    /// That had no right answer.
    pub failed: usize,
    /// Why the first of these had none.
    pub why: Option<String>,
}

impl Herd {
    /// Opens this number of connections one after the other, each from one of a few loopback addresses, until too many fail or the time is
    /// over.
    pub fn gather(target: &Target, count: usize, most: Duration) -> Herd {
        let until = Instant::now() + most;
        let mut herd = Herd { streams: Vec::with_capacity(count), failed: 0, why: None };
        for number in 0..count {
            if herd.failed >= PATIENCE || Instant::now() >= until {
                break;
            }
            match one(target, (number / OF_ONE_ADDRESS) as u8) {
                Ok(stream) => herd.streams.push(stream),
                Err(error) => {
                    herd.failed += 1;
                    herd.why.get_or_insert(error.to_string());
                }
            }
        }
        herd
    }

    /// How many were answered.
    pub fn answered(&self) -> usize {
        self.streams.len()
    }

    /// How many the server has not closed since.
    pub fn open(&self) -> usize {
        let is_open = |stream: &&TcpStream| {
            let _ = stream.set_nonblocking(true);
            matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        };
        self.streams.iter().filter(is_open).count()
    }
}

fn one(target: &Target, from: u8) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2 + from), 0)).into())?;
    socket.connect_timeout(&target.addr.into(), Duration::from_secs(2))?;
    let mut stream = TcpStream::from(socket);
    let checked = talk(&mut stream, &target.request, Duration::from_secs(1), |answer| target.expect.check(answer))?;
    checked.map_err(io::Error::other)?;
    Ok(stream)
}

/// Asks once, over a connection of its own, and hands the answer over.
///
/// # Errors
/// When there is none within that time.
pub fn ask<T>(addr: SocketAddr, request: &[u8], most: Duration, take: impl FnOnce(&Answer<'_>) -> T) -> io::Result<T> {
    let mut stream = TcpStream::connect_timeout(&addr, most)?;
    talk(&mut stream, request, most, take)
}

fn talk<T>(
    stream: &mut TcpStream,
    request: &[u8],
    most: Duration,
    take: impl FnOnce(&Answer<'_>) -> T,
) -> io::Result<T> {
    stream.set_read_timeout(Some(most))?;
    stream.write_all(request)?;
    let mut buffer = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        let count = stream.read(&mut part)?;
        buffer.extend_from_slice(&part[..count]);
        match parse(&buffer, count == 0) {
            Parsed::Whole(answer) => return Ok(take(&answer)),
            Parsed::Part if count > 0 => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "no HTTP response")),
        }
    }
}
