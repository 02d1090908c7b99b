<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Magento\Framework\App\Cache\Manager;
use Magento\Framework\App\MaintenanceMode;
use Magento\Framework\App\State;
use Magento\Framework\Console\Cli;
use Magento\Framework\Exception\LocalizedException;
use Magento\Framework\Module\Status;
use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Input\InputOption;
use Symfony\Component\Console\Output\OutputInterface;
use Symfony\Component\Console\Question\ConfirmationQuestion;
use Tocsin\BreachNotification\Model\ListTraces;
use Tocsin\BreachNotification\Model\RemoveTraces;

/**
 * `tocsin:uninstall`: removes all that the module has put into the database and switches it off; the files stay.
 */
class Uninstall extends Command
{
    /**
     * @param ListTraces $listTraces
     * @param RemoveTraces $removeTraces
     * @param Status $moduleStatus
     * @param Manager $cacheManager
     * @param MaintenanceMode $maintenanceMode
     * @param State $appState
     */
    public function __construct(
        private readonly ListTraces $listTraces,
        private readonly RemoveTraces $removeTraces,
        private readonly Status $moduleStatus,
        private readonly Manager $cacheManager,
        private readonly MaintenanceMode $maintenanceMode,
        private readonly State $appState
    ) {
        parent::__construct('tocsin:uninstall');
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setDescription('Removes everything of Tocsin from the database, its provenance included');
        $this->addOption('dry-run', null, InputOption::VALUE_NONE, 'Only show what would be removed');
        $this->setHelp(
            'The shop is in maintenance mode meanwhile. In production mode it stays so until you have run setup:di:compile.'
            . ' Export provenance and notices first if you must keep them: nothing brings them back.'
        );
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $this->show($this->listTraces->execute(), $output);
        if ($input->getOption('dry-run')) {
            $output->writeln('Nothing was changed.');
            return Cli::RETURN_SUCCESS;
        }
        // Without a terminal nobody could answer.
        if ($input->isInteractive() && stream_isatty(STDIN)
            && !$this->getHelper('question')->ask($input, $output, new ConfirmationQuestion('Remove all of it? [y/N] ', false))
        ) {
            $output->writeln('Nothing was changed.');
            return Cli::RETURN_FAILURE;
        }
        return $this->remove($output);
    }

    /**
     * Remove, and say what is left to do.
     *
     * @param OutputInterface $output
     * @return int
     */
    private function remove(OutputInterface $output): int
    {
        $wasOn = $this->maintenanceMode->isOn();
        $this->maintenanceMode->set(true);
        try {
            $this->removeTraces->execute();
            // Last: a crash before this line leaves the command itself there, to be run again.
            $this->moduleStatus->setIsEnabled(false, [ListTraces::MODULE]);
            $this->cacheManager->flush($this->cacheManager->getAvailableTypes());
        } catch (\Throwable $error) {
            $this->maintenanceMode->set($wasOn);
            if (!$error instanceof LocalizedException) {
                throw $error;
            }
            $output->writeln("<error>{$error->getMessage()}</error>");
            return Cli::RETURN_FAILURE;
        }
        $output->writeln('Removed; the module is switched off. Its files are still there: take them out');
        $output->writeln('(composer remove tocsin/module-breach-notification, or app/code/Tocsin/BreachNotification).');
        if ($this->appState->getMode() === State::MODE_PRODUCTION) {
            $output->writeln('Then run setup:di:compile and maintenance:disable: the shop is in maintenance mode until then.');
        } else {
            $this->maintenanceMode->set($wasOn);
        }
        return Cli::RETURN_SUCCESS;
    }

    /**
     * Print what is there.
     *
     * @param array{triggers: string[], tables: array<string, int>, rows: array<string, int>} $traces
     * @param OutputInterface $output
     * @return void
     */
    private function show(array $traces, OutputInterface $output): void
    {
        foreach ($traces['triggers'] as $name) {
            $output->writeln("statement in trigger $name");
        }
        foreach ($traces['tables'] as $name => $count) {
            $output->writeln("table $name with $count rows");
        }
        foreach ($traces['rows'] as $name => $count) {
            $output->writeln("$count rows of $name");
        }
        if (!array_filter($traces)) {
            $output->writeln('Nothing of Tocsin is in the database.');
        }
    }
}
