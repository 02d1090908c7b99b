<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Console\Command;

use Magento\Framework\Exception\LocalizedException;
use Symfony\Component\Console\Command\Command;
use Symfony\Component\Console\Input\InputArgument;
use Symfony\Component\Console\Input\InputInterface;
use Symfony\Component\Console\Output\OutputInterface;
use Tocsin\BreachNotification\Model\AiWrittenAttribute;
use Tocsin\BreachNotification\Model\AiWrittenAttributes;
use Tocsin\BreachNotification\Model\SaveAiWrittenAttributes;

/**
 * tocsin:attribute:remove
 */
class RemoveAttributeCommand extends Command
{
    private AiWrittenAttributes $attributes;
    private SaveAiWrittenAttributes $save;

    public function __construct(AiWrittenAttributes $attributes, SaveAiWrittenAttributes $save)
    {
        $this->attributes = $attributes;
        $this->save = $save;
        parent::__construct();
    }

    /**
     * @inheritDoc
     */
    protected function configure()
    {
        $this->setName('tocsin:attribute:remove');
        $this->setDescription('No longer counts an attribute as AI-written; records made so far stay');
        $this->addArgument('entity', InputArgument::REQUIRED, 'customer, customer_address or order');
        $this->addArgument('attribute', InputArgument::REQUIRED, 'Attribute code');
        parent::configure();
    }

    /**
     * @inheritDoc
     */
    protected function execute(InputInterface $input, OutputInterface $output): int
    {
        $attribute = new AiWrittenAttribute([
            'entity_type' => $input->getArgument('entity'),
            'attribute' => $input->getArgument('attribute'),
        ]);
        $all = $this->attributes->all();
        if (!isset($all[$attribute->key()])) {
            $output->writeln(sprintf(
                '<error>%s of %s is not configured as AI-written; tocsin:attribute:list shows what is.</error>',
                $attribute->attribute,
                $attribute->entityType
            ));
            return Command::FAILURE;
        }
        unset($all[$attribute->key()]);
        try {
            $this->save->execute($all);
        } catch (LocalizedException $refusal) {
            $output->writeln('<error>' . $refusal->getMessage() . '</error>');
            return Command::FAILURE;
        }
        $output->writeln(sprintf(
            '%s of %s no longer counts as AI-written.',
            $attribute->attribute,
            $attribute->entityType
        ));
        return Command::SUCCESS;
    }
}
