// nodemailer as its documentation says bulk mail is sent: a pool of connections that stay open, messages handed over
// while the pool is idle. Prints one line of JSON; the clock runs from the first connection attempt to the last answer.
//
//     node nodemailer_pool.mjs HOST PORT NUMBER
import { readFileSync } from "node:fs";
import nodemailer from "nodemailer";

const [host, port, number] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const words = JSON.parse(readFileSync(new URL("words.json", import.meta.url), "utf8"));
const transporter = nodemailer.createTransport({
  pool: true,
  host,
  port,
  secure: false,
  ignoreTLS: true,
  maxConnections: 20,
  maxMessages: Infinity,
});

function mailTo(n) {
  const leave = `https://mail.example.jp/u/${n.toString(16).padStart(32, "0")}`;
  return {
    from: { name: "品川区", address: "shina-mail@mail.example.jp" },
    to: `reader-${n}@mail-${n % 20}.example`,
    subject: words.subject,
    textEncoding: "base64",
    messageId: `<peer.${n}@mail.example.jp>`,
    list: { unsubscribe: { url: leave } },
    headers: { "List-Unsubscribe-Post": "List-Unsubscribe=One-Click" },
    text: words.text.replace("{leave}", leave),
    html: words.html.replace("{leave}", leave),
  };
}

// Resolves when the server has taken the last one.
function sendAll() {
  let [next, sent] = [0, 0];
  return new Promise((resolve, reject) => {
    const fill = () => {
      while (next < number && transporter.isIdle()) {
        transporter.sendMail(mailTo(next++)).then(() => {
          if (++sent === number) resolve(sent);
        }, reject);
      }
    };
    transporter.on("idle", fill);
    fill();
  });
}

const [began, spent] = [process.hrtime.bigint(), process.cpuUsage()];
const sent = await sendAll();
const seconds = Number(process.hrtime.bigint() - began) / 1e9;
const cpu = process.cpuUsage(spent);
transporter.close();
const [cpu_s, peak_mb] = [(cpu.user + cpu.system) / 1e6, process.resourceUsage().maxRSS / 1024];
console.log(JSON.stringify({ seconds, cpu_s, sent, peak_mb }));
