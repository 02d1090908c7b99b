<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Magento\Framework\Console\Cli;
use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Helper\Table;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Input\InputOption;
use Symfony\Component\Console\Output\OutputInterface;
use Tocsin\BreachNotification\Model\Capture\GetCaptureStatus;

/**
 * `tocsin:capture:status`: whether changes are seen and how many wait. Ends with 1 if something is wrong.
 */
class CaptureStatus extends Command
{
    /**
     * @param GetCaptureStatus $getCaptureStatus
     */
    public function __construct(private readonly GetCaptureStatus $getCaptureStatus)
    {
        parent::__construct('tocsin:capture:status');
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setDescription('Shows whether Tocsin sees the changes of this store, and how many wait for the relay');
        $this->addOption('json', null, InputOption::VALUE_NONE, 'Print JSON');
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $status = $this->getCaptureStatus->execute();
        if ($input->getOption('json')) {
            $output->writeln(json_encode($status, JSON_PRETTY_PRINT | JSON_UNESCAPED_SLASHES | JSON_THROW_ON_ERROR));
        } else {
            $this->show($status, $output);
        }
        return $status['problems'] ? Cli::RETURN_FAILURE : Cli::RETURN_SUCCESS;
    }

    /**
     * Print the status for people.
     *
     * @param array<string, mixed> $status
     * @param OutputInterface $output
     * @return void
     */
    private function show(array $status, OutputInterface $output): void
    {
        $views = new Table($output);
        $views->setHeaders(['View', 'Capture', 'Triggers', 'Waiting', 'Oldest change (UTC)']);
        foreach ($status['views'] as $view) {
            $views->addRow([
                $view['view'],
                $view['mode'],
                "{$view['triggers']} of {$view['triggers_expected']}",
                $view['backlog'] ?? 'no changelog',
                $view['oldest_change_at'] ?? '-',
            ]);
        }
        $views->render();

        if ($status['provenance']) {
            $models = new Table($output);
            $models->setHeaders(['Model', 'Version', 'Records', 'Retired']);
            foreach ($status['provenance'] as $row) {
                $models->addRow([$row['model_id'], $row['model_version'], $row['records'], $row['retired']]);
            }
            $models->render();
        } else {
            $output->writeln('No provenance is recorded yet.');
        }
        $notices = $status['notices'];
        $output->writeln(
            "Account notices: {$notices['open']} open, {$notices['read']} read, {$notices['withdrawn']} withdrawn."
        );
        $output->writeln(
            $status['relay']['beat_at'] === null
                ? 'No relay has read this store yet.'
                : "Relay {$status['relay']['name']} was last alive at {$status['relay']['beat_at']} UTC."
        );
        foreach ($status['problems'] as $problem) {
            $output->writeln("<error>$problem</error>");
        }
    }
}
