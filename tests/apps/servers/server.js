// SPDX-License-Identifier: GPL-2.0-or-later
// node.js: ADDRESS PORT DIRECTORY [CLUSTER]. HTTP at PORT: GET streams a file, POST answers with what it gets as it
// gets it; an echo at PORT + 1. With CLUSTER, so many worker processes share the listeners.
const http = require("http"), net = require("net"), fs = require("fs"), path = require("path");
const cluster = require("cluster");
const [addr, port, dir, workers] = process.argv.slice(2);

function serve(ready) {
	const server = http.createServer((req, res) => {
		if (req.method === "POST") {
			res.writeHead(200);
			req.pipe(res);
			return;
		}
		const file = path.join(dir, path.basename(req.url));
		fs.stat(file, (err, st) => {
			if (err) {
				res.writeHead(404);
				res.end();
				return;
			}
			res.writeHead(200, {"Content-Length": st.size});
			fs.createReadStream(file).pipe(res);
		});
	});
	server.keepAliveTimeout = 60000;
	const echo = net.createServer((s) => {
		s.on("error", () => {});
		s.pipe(s);
	});
	server.listen(+port, addr, 256, () => echo.listen(+port + 1, addr, ready));
}

if (workers && cluster.isPrimary) {
	let up = 0;
	for (let i = 0; i < +workers; i++)
		cluster.fork().on("message", () => ++up === +workers && console.log("ready"));
} else if (workers) {
	serve(() => process.send("up"));
} else {
	serve(() => console.log("ready"));
}
