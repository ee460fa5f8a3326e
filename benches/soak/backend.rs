//! A server as a process of its own: it answers messages, and plain requests.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use wsgate::proto::handshake::accept_key;

use crate::{
    Fallible, head,
    wire::{Came, End, Order, Over},
};

/// While it floods, so many bytes wait to be written.
const FLOOD: usize = 64 * 1024;

/// Serves at `address` until the process is killed. `name` tells it from those before it at the same address.
pub(crate) async fn run(address: SocketAddr, name: String) -> Fallible<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(4096)?;
    println!("address {}", listener.local_addr()?);
    serve(listener, name.leak()).await
}

async fn serve(listener: TcpListener, name: &'static str) -> Fallible<()> {
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            // A tunnel or a connection that ends is nothing to tell; what arrives wrong is.
            if let Err(Over::Wrong(what)) = connection(socket).await {
                println!("violation {name}: {what}");
            }
        });
    }
}

async fn connection(mut socket: TcpStream) -> Result<(), Over> {
    let mut tail = Vec::new();
    loop {
        let head = head::read(&mut socket, &mut tail).await?;
        if let Some(key) = head::value(&head, "sec-websocket-key") {
            let accept = accept_key(key);
            let agreed = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                 Sec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            socket.write_all(agreed.as_bytes()).await?;
            return tunnel(End::new(socket, false, head::tunnel(&head), tail)).await;
        }
        let length = head::value(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        while tail.len() < length {
            if socket.read_buf(&mut tail).await? == 0 {
                return Ok(());
            }
        }
        let body: Vec<u8> = tail.drain(..length).collect();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        socket.write_all(&[answer.as_bytes(), &body].concat()).await?;
    }
}

async fn tunnel(mut end: End<TcpStream>) -> Result<(), Over> {
    let mut floods = false;
    loop {
        while let Some(came) = end.next()? {
            match came {
                Came::Message(Order::Answer) => end.say(Order::Nothing),
                Came::Message(Order::Finish) => end.say(Order::Count(end.received)),
                Came::Message(Order::Flood) => floods = true,
                Came::Message(Order::Nothing | Order::Count(_)) => {}
                Came::Close => {
                    end.close();
                    return end.end().await;
                }
            }
        }
        while floods && end.waiting() < FLOOD {
            end.say(Order::Nothing);
        }
        end.moves(true).await?;
    }
}
